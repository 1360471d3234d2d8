"""What a Python model service imports to be monitored; standard library only.

::

    monitor = Monitor("http://127.0.0.1:9877", "digits", "3")
    prediction_id = monitor.record(inputs={"image": image}, prediction="7", confidence=0.93, duration_seconds=0.012)
    monitor.feedback(prediction_id, "corrected", label="1", user="teacher-4")
"""

from __future__ import annotations

import datetime as dt
import functools
import os
import time as clock
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, overload

from exporter.client import encoding
from exporter.client.middleware import EVENT_BYTES, Asgi, AsgiApp, Wsgi, current, encode_event
from exporter.client.sender import Sender
from exporter.client.transport import Transport

__all__ = ["Monitor"]

_IMMUTABLE = frozenset({str, int, float, bool, type(None)})
_Function = TypeVar("_Function", bound=Callable[..., Any])


class Monitor:
    """Client that records the predictions of one model.

    `record` only adds the event to a buffer in memory; one daemon thread sends the buffer in batches. While the
    exporter is unavailable the newest events are kept, up to the bounds below, and the service is not affected.
    At exit the process waits up to 2 s for unsent events; a process that ends by ``os._exit`` or a signal must call
    `close`. After ``os.fork`` the child starts with an empty buffer, counters at zero and a thread of its own.

    Parameters
    ----------
    url
        The exporter, such as ``http://127.0.0.1:9877``, ``https://…`` or ``unix:///run/exporter.sock`` for a socket.
        ``user:password@`` becomes basic authentication, and a path is a prefix of all paths.
    model, version
        Labels of everything recorded here.
    token_file
        A file with the service's bearer token, read for every request. Without it the token is
        ``MODEL_EXPORTER_TOKEN`` of the environment, if that is set and the URL has no user.
    ca_file
        A file in PEM with the certificates to trust instead of the system's, for a private certificate authority.
    capacity
        Maximum number of events in memory; beyond it, the oldest is dropped.
    capacity_bytes
        The same bound in bytes, for large inputs.
    batch_size
        Maximum number of events in a request.
    interval
        Seconds that an event waits for others to be sent with it.
    timeout
        Seconds that one request may take.
    give_up
        Seconds after which a batch that cannot be sent is dropped.
    shadow
        Whether no user sees the predictions of this version: they are only compared with what users see, for the same
        requests. `record` then needs the ``id`` that the other monitor returned.
    """

    def __init__(
        self,
        url: str,
        model: str,
        version: str | None = None,
        *,
        token_file: str | os.PathLike[str] | None = None,
        ca_file: str | os.PathLike[str] | None = None,
        capacity: int = 10_000,
        capacity_bytes: int = 64 << 20,
        batch_size: int = 500,
        interval: float = 1.0,
        timeout: float = 5.0,
        give_up: float = 300.0,
        shadow: bool = False,
    ) -> None:
        self._model = model
        self._shadow = shadow
        self._transport = Transport(url, timeout, token_file, ca_file)
        encode = functools.partial(encode_event, model=model, version=version, shadow=shadow)
        bounds = capacity, capacity_bytes, batch_size, interval, give_up
        self.sender = Sender(self._transport, encode, f"monitor {model}", *bounds)

    @property
    def sent(self) -> int:
        """The number of events that the exporter accepted."""
        return self.sender.sent

    @property
    def dropped(self) -> int:
        """The number of dropped events: over the bounds, refused, not encodable, or unsent at `close`."""
        return self.sender.dropped

    @property
    def prediction_id(self) -> str | None:
        """The identifier of the current request, within middleware or a watched function."""
        context = current.get()
        return None if context is None or context.done else context.id

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
        """Record one request to the model; never waits for the network and never raises.

        Parameters
        ----------
        id
            The identifier that feedback refers to. By default that of the surrounding request (see `wsgi`, `asgi` and
            `watch`), else a time-ordered UUID.
        inputs
            Raw inputs by feature: plain values, arrays, tensors or images; or a pandas row. They are copied
            immediately, so that the caller may change them afterwards. NaN counts as missing.
        prediction
            The model's prediction; None if it failed. An array of one element becomes this element.
        confidence
            From 0 to 1.
        duration_seconds
            How long the prediction took. By default the duration of the surrounding request.
        code
            The HTTP status of the response; 5xx are errors of the model. By default that of the surrounding request,
            else 200.
        time
            A datetime, or seconds since the epoch; now by default.

        Returns
        -------
        str
            The identifier; empty when ``id`` cannot be converted to a string.
        """
        event_id = ""
        try:
            now = clock.time_ns()
            context = current.get()
            if context is not None and context.done:
                context = None
            if id is not None:
                event_id = str(id)
            elif self._shadow:
                event_id = "" if context is None else context.id
                if not event_id:
                    raise ValueError("a shadow answer needs the id of the prediction that the user saw")
            elif context is None or context.recorded:
                event_id = encoding.time_ordered_id(now)
            else:
                event_id = context.id
            copy, size = encoding.snapshot_inputs(inputs)
            if type(prediction) not in _IMMUTABLE:
                prediction, more = encoding.snapshot(prediction)
                size += more
            if type(confidence) not in _IMMUTABLE:
                confidence = encoding.snapshot(confidence)[0]
            moment = now if time is None else encoding.rfc3339(time)
            event = (size + EVENT_BYTES, event_id, moment, copy, prediction, confidence, duration_seconds, code, None)
            if context is None or self._shadow:
                self.sender.add(event)
            else:
                context.defer(self.sender, event)
        except Exception as error:  # monitoring must not break what it monitors
            self.sender.drop(1, f"an event could not be recorded: {encoding.describe_error(error)}")
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
        """Send a user's feedback on a prediction; return once it is on the exporter's disk.

        Parameters
        ----------
        prediction_id
            The identifier that `record` returned.
        verdict
            ``"accepted"``, ``"corrected"``, or ``"rejected"`` if the prediction is wrong and the label may be unknown.
        label
            The correct label; required if corrected, optional if rejected.
        user, comment
            The user and the user's comment.

        Returns
        -------
        dict
            The exporter's response.

        Raises
        ------
        ExporterError
            When the feedback is not on disk: the exporter is unavailable or busy, or refused it.
        """
        feedback = {
            "prediction_id": prediction_id,
            "verdict": verdict,
            "label": encoding.unwrap_single(label),
            "user": user,
            "comment": comment,
        }
        return self._transport.store("feedback", "/v1/feedback", encoding.encode_document(feedback))

    def label(self, prediction_id: str, label: Any, *, time: dt.datetime | float | None = None) -> dict[str, Any]:
        """Send the true label of a prediction of this model; return once it is on the exporter's disk.

        Parameters
        ----------
        prediction_id
            The identifier that `record` returned.
        label
            The true label. An array of one element becomes this element.
        time
            When it became known: a datetime, or seconds since the epoch; now by default.

        Returns
        -------
        dict
            The exporter's response.

        Raises
        ------
        ExporterError
            When the label is not on disk: the exporter is unavailable or busy, or refused it.
        """
        document = {
            "prediction_id": prediction_id,
            "model": self._model,
            "label": encoding.unwrap_single(label),
            "time": None if time is None else encoding.rfc3339(time),
        }
        return self._transport.store("label", "/v1/labels", encoding.encode_document(document))

    def wsgi(self, app: Any, *, paths: Sequence[str] | None = None, trust_ids: bool = True) -> Wsgi:
        """Wrap a WSGI application (Flask, Django) to time and count its requests.

        An event that `record` adds during a request gets the request's duration, code and identifier. A request in
        which nothing was recorded becomes an event of its own.

        Parameters
        ----------
        app
            The application.
        paths
            The model's paths, ``*`` for any characters, such as ``["/predict", "/v2/models/*"]``; by default all.
        trust_ids
            Whether to use a request's ``X-Request-ID``; else each gets a new identifier.
        """
        return Wsgi(self.sender, app, paths, trust_ids)

    def asgi(self, app: AsgiApp, *, paths: Sequence[str] | None = None, trust_ids: bool = True) -> Asgi:
        """Wrap an ASGI application (FastAPI, Starlette), as `wsgi` does; ``add_middleware`` accepts this, too."""
        return Asgi(self.sender, app, paths, trust_ids)

    @overload
    def watch(self, function: _Function) -> _Function: ...

    @overload
    def watch(
        self, *, inputs: bool = True, read: Callable[[Any], Mapping[str, Any]] | None = None
    ) -> Callable[[_Function], _Function]: ...

    def watch(
        self, function: Any = None, *, inputs: bool = True, read: Callable[[Any], Mapping[str, Any]] | None = None
    ) -> Any:
        """Record each call of a decorated function, plain or ``async``.

        Parameters
        ----------
        function
            Its arguments are recorded as the inputs and its result as the prediction; an exception is recorded with
            code 500 and raised to its caller. If the function calls `record` itself, only that event is recorded.
        inputs
            Whether to record the arguments.
        read
            Converts the function's result to arguments of `record`, if it is more than a label.
        """
        from exporter.client.calls import watch

        if function is None:
            return lambda function: watch(self, function, inputs, read)
        return watch(self, function, inputs, read)

    def wrap(
        self, model: Any, *, names: Sequence[str] | None = None, confidence: bool = True, timed: bool = True
    ) -> Any:
        """Wrap a scikit-learn-like model to record each row of ``predict`` and ``predict_proba`` as an event.

        Parameters
        ----------
        model
            The model; its other attributes stay as they are.
        names
            Names of the columns, if the rows have none; by default those that the model was trained with.
        confidence
            Whether ``predict`` calls ``predict_proba``, too, for the confidence.
        timed
            Whether to record the duration of the call as that of each row.
        """
        from exporter.client.calls import RecordedModel

        return RecordedModel(self, model, names, confidence, timed)

    def flush(self, timeout: float = 5.0) -> bool:
        """Send the buffered events, waiting at most ``timeout`` seconds.

        Returns
        -------
        bool
            Whether everything recorded before the call was sent.
        """
        return self.sender.flush(timeout)

    def close(self, timeout: float = 5.0) -> None:
        """Send the buffered events, waiting at most ``timeout`` seconds, and stop; the rest counts as dropped."""
        self.sender.close(timeout)
