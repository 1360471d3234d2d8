"""Turn the bytes that arrive into events, or into a refusal. It knows no storage, no server and no HTTP."""
