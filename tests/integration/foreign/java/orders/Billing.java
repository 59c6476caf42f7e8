package orders;

/** Code of a service that fails; the frames of its exceptions are what a stack trace is looked at for. */
public final class Billing {
    private Billing() {}

    /** Fails as the text says, which may be part of a longer one. */
    public static void bill(String order) {
        if (order.contains("with-a-cause")) {
            try {
                price(order);
            } catch (NumberFormatException cause) {
                throw new IllegalStateException("cannot bill the order", cause);
            }
        }
        if (order.contains("without-a-cause")) {
            throw new IllegalArgumentException("the order is odd: Größe 日本");
        }
        if (order.contains("without-a-message")) {
            throw new NullPointerException();
        }
        if (order.contains("with-control-characters")) {
            throw new IllegalArgumentException("\u001b[31mred\u001b[0m\nCaused by: nothing\u0007");
        }
    }

    private static int price(String order) {
        return Integer.parseInt("a lot");
    }
}
