package orders;

import java.nio.charset.StandardCharsets;
import java.util.Collection;
import java.util.HashMap;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;

import org.apache.kafka.clients.consumer.Consumer;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.common.serialization.IntegerDeserializer;
import org.apache.kafka.common.serialization.IntegerSerializer;
import org.apache.kafka.common.serialization.Serializer;
import org.springframework.context.annotation.AnnotationConfigApplicationContext;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Configuration;
import org.springframework.core.env.Environment;
import org.springframework.kafka.annotation.BackOff;
import org.springframework.kafka.annotation.EnableKafka;
import org.springframework.kafka.annotation.EnableKafkaRetryTopic;
import org.springframework.kafka.annotation.KafkaListener;
import org.springframework.kafka.annotation.RetryableTopic;
import org.springframework.kafka.config.ConcurrentKafkaListenerContainerFactory;
import org.springframework.kafka.core.DefaultKafkaConsumerFactory;
import org.springframework.kafka.core.DefaultKafkaProducerFactory;
import org.springframework.kafka.core.KafkaTemplate;
import org.springframework.kafka.listener.DeadLetterPublishingRecoverer;
import org.springframework.kafka.listener.DefaultErrorHandler;
import org.springframework.kafka.support.KafkaHeaders;
import org.springframework.kafka.support.serializer.DelegatingByTypeSerializer;
import org.springframework.kafka.support.serializer.ErrorHandlingDeserializer;
import org.springframework.messaging.handler.annotation.Header;
import org.springframework.scheduling.TaskScheduler;
import org.springframework.scheduling.concurrent.ThreadPoolTaskScheduler;
import org.springframework.util.backoff.FixedBackOff;

/**
 * A Spring application whose listeners fail, and one that listens to dead letters.
 *
 * <p>{@code write BOOTSTRAP_SERVERS PREFIX TOPIC=RECORDS...}: listens to topics PREFIX.orders, .numbers and .trips until its
 * dead-letter topics hold so many records. {@code read BOOTSTRAP_SERVERS PREFIX RECORDS}: listens to PREFIX.exported as an
 * application does to its dead-letter topic, and prints what Spring hands it.
 */
public final class SpringDeadLetters {
    private SpringDeadLetters() {}

    public static void main(String[] arguments) throws Exception {
        System.setProperty("servers", arguments[1]);
        System.setProperty("prefix", arguments[2]);
        if (arguments[0].equals("read")) {
            Desk.left = new CountDownLatch(Integer.parseInt(arguments[3]));
            try (var context = new AnnotationConfigApplicationContext(Common.class, Desk.class)) {
                if (!Desk.left.await(60, TimeUnit.SECONDS)) {
                    throw new IllegalStateException(Desk.left.getCount() + " records have not come");
                }
            }
            return;
        }
        try (var context = new AnnotationConfigApplicationContext(Common.class, Failing.class);
                Consumer<byte[], byte[]> looker = Common.consumers(null).createConsumer("none", "looker")) {
            for (int at = 3; at < arguments.length; at++) {
                String[] parts = arguments[at].split("=");
                while (records(looker, parts[0]) < Integer.parseInt(parts[1])) {
                    Thread.sleep(50);
                }
            }
        }
    }

    private static long records(Consumer<?, ?> looker, String topic) {
        Collection<TopicPartition> partitions = looker.partitionsFor(topic).stream()
                .map(found -> new TopicPartition(found.topic(), found.partition())).toList();
        return looker.endOffsets(partitions).values().stream().mapToLong(Long::longValue).sum();
    }

    @Configuration
    @EnableKafka
    public static class Common {
        static DefaultKafkaConsumerFactory<byte[], byte[]> consumers(Map<String, Object> more) {
            Map<String, Object> properties = new HashMap<>();
            properties.put(ConsumerConfig.BOOTSTRAP_SERVERS_CONFIG, System.getProperty("servers"));
            properties.put(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, "earliest");
            properties.put(ConsumerConfig.GROUP_PROTOCOL_CONFIG, "consumer");
            properties.put(ConsumerConfig.KEY_DESERIALIZER_CLASS_CONFIG, ByteArrayDeserializer.class);
            properties.put(ConsumerConfig.VALUE_DESERIALIZER_CLASS_CONFIG, ByteArrayDeserializer.class);
            if (more != null) {
                properties.putAll(more);
            }
            return new DefaultKafkaConsumerFactory<>(properties);
        }

        @Bean
        KafkaTemplate<byte[], byte[]> template() {
            return new KafkaTemplate<>(new DefaultKafkaProducerFactory<>(
                    Map.of(ProducerConfig.BOOTSTRAP_SERVERS_CONFIG, System.getProperty("servers")),
                    serializer(), serializer()));
        }

        /** What was deserialized is serialized again, and what could not be is left as it was. */
        @SuppressWarnings("unchecked")
        private static Serializer<byte[]> serializer() {
            return (Serializer<byte[]>) (Serializer<?>) new DelegatingByTypeSerializer(
                    Map.of(byte[].class, new ByteArraySerializer(), Integer.class, new IntegerSerializer()));
        }

        @Bean
        ConcurrentKafkaListenerContainerFactory<byte[], byte[]> plain(KafkaTemplate<byte[], byte[]> template) {
            return factory(template, Map.of());
        }

        static ConcurrentKafkaListenerContainerFactory<byte[], byte[]> factory(
                KafkaTemplate<byte[], byte[]> template, Map<String, Object> more) {
            var factory = new ConcurrentKafkaListenerContainerFactory<byte[], byte[]>();
            factory.setConsumerFactory(consumers(more));
            factory.setCommonErrorHandler(
                    new DefaultErrorHandler(new DeadLetterPublishingRecoverer(template), new FixedBackOff(0, 1)));
            return factory;
        }
    }

    @Configuration
    @EnableKafkaRetryTopic
    public static class Failing {
        @Bean
        TaskScheduler scheduler() {
            return new ThreadPoolTaskScheduler();
        }

        /** Keys and values are numbers of four bytes. */
        @Bean
        ConcurrentKafkaListenerContainerFactory<byte[], byte[]> typed(KafkaTemplate<byte[], byte[]> template) {
            return Common.factory(template, Map.of(
                    ConsumerConfig.KEY_DESERIALIZER_CLASS_CONFIG, ErrorHandlingDeserializer.class,
                    ConsumerConfig.VALUE_DESERIALIZER_CLASS_CONFIG, ErrorHandlingDeserializer.class,
                    ErrorHandlingDeserializer.KEY_DESERIALIZER_CLASS, IntegerDeserializer.class,
                    ErrorHandlingDeserializer.VALUE_DESERIALIZER_CLASS, IntegerDeserializer.class));
        }

        @KafkaListener(topics = "${prefix}.orders", groupId = "${prefix}.billing", containerFactory = "plain")
        public void bill(ConsumerRecord<byte[], byte[]> order) {
            Billing.bill(new String(order.value(), StandardCharsets.UTF_8));
        }

        @KafkaListener(topics = "${prefix}.numbers", groupId = "${prefix}.counting", containerFactory = "typed")
        public void count(ConsumerRecord<Integer, Integer> number) {}

        /** A dead letter whose own listener fails goes to the dead-letter topic of the dead-letter topic. */
        @KafkaListener(topics = "${prefix}.orders-dlt", groupId = "${prefix}.desk", containerFactory = "plain")
        public void look(ConsumerRecord<byte[], byte[]> letter) {
            if (new String(letter.value(), StandardCharsets.UTF_8).contains("twice")) {
                throw new UnsupportedOperationException("the desk cannot read it either");
            }
        }

        @RetryableTopic(attempts = "2", backOff = @BackOff(10), autoCreateTopics = "false", autoStartDltHandler = "false")
        @KafkaListener(topics = "${prefix}.trips", groupId = "${prefix}.tripping", containerFactory = "plain")
        public void trip(ConsumerRecord<byte[], byte[]> trip) {
            Billing.bill(new String(trip.value(), StandardCharsets.UTF_8));
        }
    }

    @Configuration
    public static class Desk {
        static CountDownLatch left;

        @KafkaListener(topics = "${prefix}.exported", groupId = "${prefix}.reader", containerFactory = "plain")
        public void look(
                ConsumerRecord<byte[], byte[]> letter,
                @Header(KafkaHeaders.DLT_ORIGINAL_TOPIC) String topic,
                @Header(KafkaHeaders.DLT_ORIGINAL_PARTITION) int partition,
                @Header(KafkaHeaders.DLT_ORIGINAL_OFFSET) long offset,
                @Header(KafkaHeaders.DLT_ORIGINAL_TIMESTAMP) long timestamp,
                @Header(KafkaHeaders.DLT_ORIGINAL_TIMESTAMP_TYPE) String timestampType,
                @Header(KafkaHeaders.DLT_ORIGINAL_CONSUMER_GROUP) String group,
                @Header(KafkaHeaders.DLT_EXCEPTION_FQCN) String exception,
                @Header(KafkaHeaders.DLT_EXCEPTION_CAUSE_FQCN) String cause,
                @Header(KafkaHeaders.DLT_EXCEPTION_MESSAGE) String message,
                @Header(KafkaHeaders.DLT_EXCEPTION_STACKTRACE) String stack) {
            System.out.println(String.join("\t", topic, "" + partition, "" + offset, "" + timestamp, timestampType, group,
                    exception, cause, message, "" + stack.length(), new String(letter.value(), StandardCharsets.UTF_8)));
            left.countDown();
        }
    }
}
