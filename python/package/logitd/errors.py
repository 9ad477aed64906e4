"""What can go wrong with a call to a server: an exception for each kind, all of them `Error`."""

__all__ = [
    "DeadlineExceeded",
    "Error",
    "InvalidArgument",
    "PermissionDenied",
    "ResourceExhausted",
    "Unauthenticated",
    "Unavailable",
    "make",
]


class Error(Exception):
    """A call to a server has no answer. `code` is the gRPC code's name, such as `Internal`."""

    code: str = ""
    violations: list[tuple[str, str]] = []
    """The fields that are wrong, each with what is allowed."""
    retry_after: float | None = None
    """Seconds until the server may have room, where it says so."""


class InvalidArgument(Error, ValueError):
    """The request is wrong; `violations` has each field."""


class ResourceExhausted(Error):
    """The server has no room, or the request is beyond a limit; where waiting helps, `retry_after` says how long."""


class DeadlineExceeded(Error, TimeoutError):
    """There was no answer in time."""


class Unavailable(Error, ConnectionError):
    """There is no connection, or no longer. Sampling again is harmless."""


class PermissionDenied(Error, PermissionError):
    """The token is not for this."""


class Unauthenticated(Error, PermissionError):
    """The server wants a token, or another one."""


def make(code: str, message: str, violations: list[tuple[str, str]], retry_after: float | None) -> Error:
    """The exception of a gRPC code."""
    kinds = {kind.__name__: kind for kind in Error.__subclasses__()}
    error = kinds.get(code, Error)(message)
    error.code, error.violations, error.retry_after = code, violations, retry_after
    return error
