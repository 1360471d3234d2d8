"""One model of a service, as its exporter sees it."""

from __future__ import annotations

import datetime as dt
import functools
import os
import time as clock
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, overload

from exporter.client.encoding import describe_error, encoded, rfc3339, single, snapshot, snapshot_inputs
from exporter.client.ids import time_ordered
from exporter.client.request_context import EVENT_BYTES, current, document
from exporter.client.sender import Sender
from exporter.client.transport import Transport
from exporter.client.wsgi import Wsgi

if TYPE_CHECKING:
    from exporter.client.asgi import Asgi, AsgiApp

__all__ = ["Monitor"]

_PLAIN = frozenset({str, int, float, bool, type(None)})
_Function = TypeVar("_Function", bound=Callable[..., Any])


class Monitor:
    """One model of a service, as its exporter sees it.

    `record` only puts the event into memory; one daemon thread sends what is there in batches. When
    the exporter is away the newest events are kept up to the bounds below, and the service never
    notices. Events still unsent when the process ends are given a moment, or call `close`
    (a process that ends by ``os._exit`` or a signal must). After ``os.fork`` the child starts empty, with
    counters at zero and a thread of its own.

    Parameters
    ----------
    url
        The exporter, such as ``http://127.0.0.1:9877``; ``https`` is verified against the system's
        certificates, ``user:password@`` becomes basic authentication, a path is a prefix;
        ``unix:///run/exporter.sock`` is a socket.
    model, version
        Labels of everything recorded here.
    token_file
        A file with the bearer token that the exporter knows this service by; read for every request, so
        that a new token needs no restart. Without it the token is the environment's
        ``MODEL_EXPORTER_TOKEN``, if that is set and the URL has no user.
    capacity
        Events kept in memory; past it the oldest is dropped.
    capacity_bytes
        The same bound in bytes, for large inputs.
    batch_size
        Events sent in one request at most.
    interval
        Seconds an event waits for others to travel with.
    timeout
        Seconds one request may take.
    give_up
        Seconds after which a batch that the exporter cannot take is dropped for the next one.
    """

    def __init__(
        self,
        url: str,
        model: str,
        version: str | None = None,
        *,
        token_file: str | os.PathLike[str] | None = None,
        capacity: int = 10_000,
        capacity_bytes: int = 64 << 20,
        batch_size: int = 500,
        interval: float = 1.0,
        timeout: float = 5.0,
        give_up: float = 300.0,
    ) -> None:
        self._target = Transport(url, timeout, token_file)
        self.sender = Sender(
            self._target,
            functools.partial(document, model=model, version=version),
            f"monitor {model}",
            capacity=capacity,
            capacity_bytes=capacity_bytes,
            batch_size=batch_size,
            interval=interval,
            give_up=give_up,
        )

    @property
    def sent(self) -> int:
        """Events the exporter has accepted."""
        return self.sender.sent

    @property
    def dropped(self) -> int:
        """Events lost: pushed out, refused by the exporter, not to be encoded, or unsent at `close`."""
        return self.sender.dropped

    @property
    def prediction_id(self) -> str | None:
        """Identifier of the request that is being answered here, where middleware or `watch` is around it."""
        call = current.get()
        return None if call is None or call.done else call.id

    def record(
        self,
        *,
        id: str | None = None,  # noqa: A002 (the event's own field)
        inputs: Mapping[str, Any] | None = None,
        prediction: Any = None,
        confidence: float | None = None,
        duration_seconds: float | None = None,
        code: int | None = None,
        time: dt.datetime | float | None = None,
    ) -> str:
        """Note one request to the model; never waits for the network and never raises.

        Parameters
        ----------
        id
            The request's own identifier, by which feedback finds it. When absent that of the request
            around it, see `wsgi`, `asgi` and `watch`; else a time-ordered UUID.
        inputs
            Raw inputs by feature: plain values, arrays, tensors, pictures; or a pandas row. They are
            copied here and now, so that the caller may change them afterwards. NaN counts as missing.
        prediction
            What the model answered; None when it did not. An array of one is its value.
        confidence
            From 0 to 1.
        duration_seconds
            How long the answer took. When absent the duration of the request around it.
        code
            HTTP status of the answer; 5xx are the model's errors. When absent that of the request
            around it, else 200.
        time
            When: a datetime, or seconds since the epoch; now when absent.

        Returns
        -------
        str
            The identifier; empty when ``id`` cannot be made a string.
        """
        event_id = ""
        try:
            now = clock.time_ns()
            call = current.get()
            if call is not None and call.done:
                call = None
            if id is not None:
                event_id = str(id)
            elif call is None or call.recorded:
                event_id = time_ordered(now)
            else:
                event_id = call.id
            copy, size = snapshot_inputs(inputs)
            if type(prediction) not in _PLAIN:
                prediction, more = snapshot(prediction)
                size += more
            if type(confidence) not in _PLAIN:
                confidence = snapshot(confidence)[0]
            moment = now if time is None else rfc3339(time)
            event = (size + EVENT_BYTES, event_id, moment, copy, prediction, confidence, duration_seconds, code)
            if call is None:
                self.sender.put(event)
            else:
                call.hold(self.sender, event)
        except Exception as error:  # monitoring must not break what it monitors
            self.sender.drop(1, f"an event could not be recorded: {describe_error(error)}")
        return event_id

    def feedback(
        self,
        prediction_id: str,
        verdict: str,
        *,
        label: Any = None,
        user: str | None = None,
        comment: str | None = None,
    ) -> dict[str, Any]:
        """Hand on a user's word about a prediction; returns once it is on the exporter's disk.

        Parameters
        ----------
        prediction_id
            What `record` returned.
        verdict
            ``"accepted"`` or ``"corrected"``.
        label
            The right answer, when corrected.
        user, comment
            Who said so, and in which words.

        Returns
        -------
        dict
            The exporter's answer.

        Raises
        ------
        ExporterError
            When it is not on disk: the exporter is not there, is busy, or refused it, with its reason.
        """
        word = {
            "prediction_id": prediction_id,
            "verdict": verdict,
            "label": single(label),
            "user": user,
            "comment": comment,
        }
        return self._target.feedback(encoded(word))

    def wsgi(self, app: Any, *, paths: Sequence[str] | None = None, trust_ids: bool = True) -> Wsgi:
        """A WSGI application (Flask, Django) around another one: its requests timed, counted and known by one id.

        What `record` is given inside a request becomes that request's event, complete with its duration,
        its code and its identifier. A request in which nothing was recorded is an event of its own.

        Parameters
        ----------
        app
            The application.
        paths
            Paths that are the model's, ``*`` for anything, such as ``["/predict", "/v2/models/*"]``; all when absent.
        trust_ids
            Whether a request's ``X-Request-ID`` is taken; else each gets an identifier of its own.
        """
        return Wsgi(self.sender, app, paths, trust_ids)

    def asgi(self, app: AsgiApp, *, paths: Sequence[str] | None = None, trust_ids: bool = True) -> Asgi:
        """The same for an ASGI application (FastAPI, Starlette, Litestar); ``add_middleware`` takes it, too."""
        from exporter.client.asgi import Asgi

        return Asgi(self.sender, app, paths, trust_ids)

    @overload
    def watch(self, function: _Function) -> _Function: ...

    @overload
    def watch(
        self, *, inputs: bool = True, read: Callable[[Any], Mapping[str, Any]] | None = None
    ) -> Callable[[_Function], _Function]: ...

    def watch(
        self,
        function: Any = None,
        *,
        inputs: bool = True,
        read: Callable[[Any], Mapping[str, Any]] | None = None,
    ) -> Any:
        """Decorate a function, plain or ``async``: each call is recorded.

        Parameters
        ----------
        function
            Its arguments become the inputs, what it returns the prediction; what it raises is an error of
            code 500 and goes on to its caller. Where it calls `record` itself, that is the event.
        inputs
            Whether the arguments are recorded.
        read
            From what the function returns to fields of `record`, where that is more than a label.
        """
        from exporter.client.decorator import watch

        if function is None:
            return lambda function: watch(self, function, inputs, read)
        return watch(self, function, inputs, read)

    def wrap(
        self, model: Any, *, names: Sequence[str] | None = None, confidence: bool = True, timed: bool = True
    ) -> Any:
        """A scikit-learn-like model whose ``predict`` and ``predict_proba`` are recorded, a row an event.

        Parameters
        ----------
        model
            The model; everything else about it stays as it is.
        names
            Features by column, where rows have no names of their own; else those the model was trained with.
        confidence
            Whether ``predict`` asks the model's ``predict_proba``, too, for the confidence.
        timed
            Whether the duration of the call is that of each row.
        """
        from exporter.client.sklearn import RecordedModel

        return RecordedModel(self, model, names, confidence, timed)

    def flush(self, timeout: float = 5.0) -> bool:
        """Send what is there now, waiting at most ``timeout`` seconds.

        Returns
        -------
        bool
            Whether everything recorded before the call has left.
        """
        return self.sender.flush(timeout)

    def close(self, timeout: float = 5.0) -> None:
        """Send what is there, waiting at most ``timeout`` seconds, and stop; what is left counts as dropped."""
        self.sender.close(timeout)
