"""What to say where torch.compile fails."""


def failed_to_compile(what: str, error: Exception) -> str:
    """Two lines of a message: what torch could not compile, and what it needs for that."""
    reason = " ".join(str(error).strip().splitlines()[:2])
    needed = "It needs a C++ compiler on CPUs, Triton on GPUs"
    return f"torch.compile failed on {what}: {reason}\n{needed}"
