package org.apache.kafka.connect.runtime.errors;

import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

import orders.Billing;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.common.utils.Time;
import org.apache.kafka.connect.json.JsonConverter;
import org.apache.kafka.connect.runtime.ConnectMetrics;
import org.apache.kafka.connect.runtime.SinkConnectorConfig;
import org.apache.kafka.connect.runtime.standalone.StandaloneConfig;
import org.apache.kafka.connect.sink.SinkTask;
import org.apache.kafka.connect.util.ConnectorTaskId;

/**
 * What a sink task of Kafka Connect does with records that it cannot convert or deliver: its own operator tries, its own
 * reporter writes to the dead letter queue. In this package because their constructors are for it alone.
 *
 * <p>{@code BOOTSTRAP_SERVERS TOPIC DLQ_TOPIC CONNECTOR}: each record of the one partition of TOPIC is tried once.
 */
public final class ConnectDeadLetters {
    private ConnectDeadLetters() {}

    public static void main(String[] arguments) throws Exception {
        Map<String, Object> client = new HashMap<>();
        client.put("bootstrap.servers", arguments[0]);
        client.put("key.deserializer", ByteArrayDeserializer.class.getName());
        client.put("value.deserializer", ByteArrayDeserializer.class.getName());
        client.put("key.serializer", ByteArraySerializer.class.getName());
        client.put("value.serializer", ByteArraySerializer.class.getName());
        var worker = new StandaloneConfig(Map.of(
                "bootstrap.servers", arguments[0],
                "key.converter", JsonConverter.class.getName(),
                "value.converter", JsonConverter.class.getName(),
                "offset.storage.file.filename", "unused"));
        var id = new ConnectorTaskId(arguments[3], 0);
        var sink = new SinkConnectorConfig(null, Map.of(
                "name", arguments[3],
                "connector.class", "org.apache.kafka.connect.tools.MockSinkConnector",
                "topics", arguments[1],
                "errors.tolerance", "all",
                "errors.deadletterqueue.topic.name", arguments[2],
                "errors.deadletterqueue.topic.replication.factor", "1",
                "errors.deadletterqueue.context.headers.enable", "true"));
        var metrics = new ErrorHandlingMetrics(id, new ConnectMetrics("worker", worker, Time.SYSTEM, "cluster"));
        var converter = new JsonConverter();
        converter.configure(Map.of("schemas.enable", false, "converter.type", "value"));
        try (var reporter = DeadLetterQueueReporter.createAndSetup(client, id, sink, client, metrics);
                var operator = new RetryWithToleranceOperator<ConsumerRecord<byte[], byte[]>>(
                        0, 0, ToleranceType.ALL, Time.SYSTEM, metrics);
                var consumer = new KafkaConsumer<byte[], byte[]>(client)) {
            operator.reporters(List.of(reporter));
            var partition = new TopicPartition(arguments[1], 0);
            consumer.assign(List.of(partition));
            consumer.seekToBeginning(List.of(partition));
            long end = consumer.endOffsets(List.of(partition)).get(partition);
            while (consumer.position(partition) < end) {
                for (var record : consumer.poll(Duration.ofMillis(200))) {
                    deliver(operator, converter, record);
                }
            }
        }
    }

    private static void deliver(
            RetryWithToleranceOperator<ConsumerRecord<byte[], byte[]>> operator,
            JsonConverter converter,
            ConsumerRecord<byte[], byte[]> record) {
        var context = new ProcessingContext<>(record);
        operator.execute(
                context,
                () -> converter.toConnectData(record.topic(), record.headers(), record.value()),
                Stage.VALUE_CONVERTER,
                JsonConverter.class);
        if (context.failed()) {
            return;
        }
        try {
            Billing.bill(new String(record.value()));
        } catch (RuntimeException error) { // as the reporter of a sink task does it
            operator.executeFailed(context, Stage.TASK_PUT, SinkTask.class, error);
        }
    }
}
