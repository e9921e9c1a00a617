"""From a checkpoint to a running vLLM, checked before it serves."""

from __future__ import annotations

import math
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer
from transformers import AutoConfig, GenerationConfig
from vllm import envs
from vllm.lora.request import LoRARequest
from vllm.platforms import current_platform
from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine.async_llm import AsyncLLM

from ensemble.checkpoints.folder import check_folder, read_config
from ensemble.checkpoints.resolve import resolve_checkpoint
from ensemble.checkpoints.tokenizer import load_tokenizer
from ensemble.engines.loaded_vllm import LoadedVllm
from ensemble.engines.scoring_rule import ScoringRule
from ensemble.engines.token_encoder import TokenEncoder
from ensemble.engines.vllm_arguments import build_engine_args
from ensemble.engines.vllm_processes import MAX_CAUSE, ProcessLog, counting_nan, vllm_environment
from ensemble.engines.vllm_steps import StepRecorder, drop_own_metrics
from ensemble.errors import CheckpointError, ConfigError, MemberError, MemberRefusedError
from ensemble.generation import GenerationRequest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast
    from vllm.config import VllmConfig
    from vllm.engine.arg_utils import AsyncEngineArgs

    from ensemble.checkpoints.progress import OnPhase
    from ensemble.engines.config import VllmEngineConfig
    from ensemble.engines.prompt_format import PromptFormat

_SAYS_NOTHING = "See root cause above"
"""What vLLM raises here, whatever ended its processes."""


def load_vllm(
    config: VllmEngineConfig,
    *,
    checkpoint: str,
    member: str,
    prompt_format: PromptFormat,
    cache_dir: Path,
    on_phase: OnPhase,
) -> LoadedVllm:
    """Find the checkpoint and start vLLM's processes for it; blocks until they are ready.

    Raises:
        CheckpointError: it is missing, cut short or unsupported.
        ConfigError: vLLM or the machine lacks what the config asks for.
    """
    folder = resolve_checkpoint(checkpoint, cache_dir=cache_dir, on_phase=on_phase)
    # A shape without weights is a checkpoint, too, when they are made up.
    _check_generates(folder, read_config(folder) if config.load_format == "dummy" else check_folder(folder))
    tokenizer = load_tokenizer(folder)
    shape = AutoConfig.from_pretrained(folder, local_files_only=True).get_text_config()
    encoder = TokenEncoder(tokenizer, prompt_format, add_bos=config.add_bos, vocab_size=shape.vocab_size, member=member)
    rule = ScoringRule(prompt_format, encoder, member=member)
    max_context = min(config.max_context, getattr(shape, "max_position_embeddings", None) or config.max_context)
    eos_tokens, decoder = _find_eos_tokens(folder, tokenizer), Tokenizer.from_str(encoder.backend.to_str())
    args = build_engine_args(config, folder=folder, max_context=max_context)
    on_phase("load", 0.0)
    # Nothing that can fail comes after the start: nobody would end the processes.
    log, recorder = ProcessLog(), StepRecorder()
    try:
        with vllm_environment(log, threads=config.threads):
            llm, tells_nan = _start(args, checkpoint=checkpoint, log=log, recorder=recorder)
    except BaseException:
        log.remove()
        raise
    on_phase("load", 1.0)
    return LoadedVllm(
        member=member,
        llm=llm,
        log=log,
        recorder=recorder,
        encoder=encoder,
        decoder=decoder,
        rule=rule,
        eos_tokens=eos_tokens,
        max_context=max_context,
        tells_nan=tells_nan,
        lora=LoRARequest("adapter", 1, str(Path(config.lora).expanduser())) if config.lora else None,
        structured=config.structured,
    )


async def check_generates_numbers(loaded: LoadedVllm, *, checkpoint: str) -> None:
    """Generate two tokens: one of a prompt, and one after it.

    Raises:
        CheckpointError: vLLM cannot run the model, or its logits are not numbers.
        ConfigError: vLLM cannot hold completions to what ``engine.structured`` says.
    """
    max_tokens = min(2, loaded.max_context - 1)
    outputs = loaded.complete([0], GenerationRequest(request_id="", prompt=""), max_tokens=max_tokens)
    try:
        async with aclosing(outputs):
            logprobs = [output.outputs[0].cumulative_logprob async for output in outputs]
    except MemberError as error:
        if loaded.structured and isinstance(error, MemberRefusedError):
            raise ConfigError("engine.structured", error.problem, "see vLLM's structured outputs") from error
        raise CheckpointError(checkpoint, f"vLLM cannot run it ({error.problem})", "take another one") from error
    if not logprobs or any(logprob is None or not math.isfinite(logprob) for logprob in logprobs):
        raise CheckpointError(checkpoint, "it gives logits that are not numbers", "take an undamaged one")


def _check_generates(folder: Path, described: dict[str, Any]) -> None:
    names = described.get("architectures")
    if isinstance(names, list) and any(str(name).endswith("ForSequenceClassification") for name in names):
        raise CheckpointError(str(folder), "it is a text classifier", "set engine.type to classifier")
    if described.get("is_encoder_decoder"):
        raise CheckpointError(str(folder), "it is an encoder-decoder", "take a decoder-only model")


def _start(args: AsyncEngineArgs, *, checkpoint: str, log: ProcessLog, recorder: StepRecorder) -> tuple[AsyncLLM, bool]:
    """Start vLLM's processes; says, too, whether they tell of NaN."""
    try:
        config = args.create_engine_config(UsageContext.ENGINE_CONTEXT)
    except Exception as error:  # vLLM raises whatever its parts do
        # pydantic says which part of the arguments was being checked.
        if getattr(error, "title", "") == "ModelConfig":
            raise CheckpointError(
                checkpoint, f"vLLM does not take it ({_describe(error)})", "take another one, or see engine.options"
            ) from error
        raise ConfigError(
            "engine", f"vLLM does not take these options ({_describe(error)})", "see vLLM's engine arguments"
        ) from error
    try:
        with counting_nan(is_wanted=_counts_nan_cheaply(config)) as tells_nan:
            llm = AsyncLLM.from_vllm_config(config, stat_loggers=[lambda *_: recorder], disable_log_stats=True)
    except Exception as error:  # as above
        raise _explain(error, checkpoint=checkpoint, logged=log.find_cause()) from error
    drop_own_metrics(llm)
    # For every token vLLM's front end looks at this switch, which it would find in the environment: slowly, and only
    # inside the block. Set here, it is found at once, and says no more than that whatever was counted is to be told.
    envs.VLLM_COMPUTE_NANS_IN_LOGITS = True
    return llm, tells_nan and not config.speculative_config


def _explain(error: Exception, *, checkpoint: str, logged: str) -> ConfigError:
    """Say why vLLM's processes did not come up; what they logged is nearer to the cause than what reached this one."""
    cause = logged or _describe(error)
    remedy = "change engine.kv_cache_gib or max_context, or see `ensemble plan`"
    if "memory" in cause.lower():
        return ConfigError("engine", f"{checkpoint} does not fit ({cause})", remedy)
    if not logged and _SAYS_NOTHING in cause:
        problem = f"vLLM's processes ended without a word while they loaded {checkpoint}, as when the memory runs out"
        return ConfigError("engine", f"{problem} ({cause})", remedy)
    return CheckpointError(
        checkpoint, f"vLLM does not start with it ({cause})", "take another one, or see engine.options"
    )


def _counts_nan_cheaply(config: VllmConfig) -> bool:
    """Say whether counting NaN holds up no step: on a GPU the older runner may wait for the count after each."""
    return current_platform.is_cpu() or getattr(config, "use_v2_model_runner", False)


def _describe(error: Exception) -> str:
    """Say in a line what happened."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:MAX_CAUSE]


def _find_eos_tokens(folder: Path, tokenizer: PreTrainedTokenizerFast) -> frozenset[int]:
    try:
        generation = GenerationConfig.from_pretrained(folder, local_files_only=True)
    except OSError:
        generation = GenerationConfig.from_model_config(AutoConfig.from_pretrained(folder, local_files_only=True))
    configured = generation.eos_token_id
    eos_tokens = set(configured) if isinstance(configured, list) else {configured}
    return frozenset(eos_tokens | {tokenizer.eos_token_id}) - {None}
