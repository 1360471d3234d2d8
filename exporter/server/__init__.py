"""``serve``: HTTP, the queue of events, the JSON API, the pages, and the formats of other servers."""
