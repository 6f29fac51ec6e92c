"""Runs: taking them on (web workers) and executing them (the runner)."""
