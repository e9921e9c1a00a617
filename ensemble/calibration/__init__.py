"""From labelled ballots to weights, calibrated confidence, certificates, and the panel that pays off."""
