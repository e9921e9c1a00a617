"""Everything that knows gRPC: servers, servicers, conversion to and from the wire, statuses, clients."""
