"""a window of a system → a folder of Parquet, and that folder → a system whose views show the same, offline and later.

`take` copies (take.py; tables.py what PostgreSQL has, answers.py and ends.py what Kafka says), `manifest.py` says what is
there, `evkit.connect("freeze:DIR")` opens it (opened.py): a private PostgreSQL (private_server.py) that is loaded with the
tables, on which the views run the SQL that they always run, and what Kafka answered then (recorded.py).
"""

from __future__ import annotations
