"""The embedded stack: the real Apache Kafka and the real PostgreSQL, from pip-installed parts, on this machine alone.

stack            both servers of one folder: up, down, status
kafka_server     Apache Kafka 4.3.1 in KRaft mode, one node
postgres_server  PostgreSQL 18
jars             Kafka's jars, fetched once
server           what both have in common: found by their command line, started detached, waited for
supervise        takes a stack down when its owner dies, however it dies

with evkit.local.Stack() as stack:
    print(stack.postgres_dsn, stack.kafka_bootstrap_servers)
"""

from evkit.local.stack import Stack, StackInfo, StackStatus

__all__ = ["Stack", "StackInfo", "StackStatus"]
