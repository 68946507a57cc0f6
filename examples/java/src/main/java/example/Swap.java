package example;

import com.google.gson.Gson;
import com.google.gson.reflect.TypeToken;
import engine.v1.OrderServiceGrpc;
import engine.v1.OrderServiceGrpc.OrderServiceBlockingStub;
import engine.v1.Orders.Order;
import engine.v1.Orders.OrderEvent;
import engine.v1.Orders.OrderStatus;
import engine.v1.Orders.SubmitOrderRequest;
import engine.v1.Orders.WatchOrderRequest;
import engine.v1.Orders.WatchOrderResponse;
import io.grpc.ChannelCredentials;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.TlsChannelCredentials;
import io.grpc.stub.MetadataUtils;
import java.io.File;
import java.io.IOException;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.UUID;
import java.util.concurrent.TimeUnit;
import java.util.function.Consumer;

/**
 * One swap, submitted once and followed to its end, whatever becomes of the connection.
 *
 * <pre>Swap HOST:PORT TOKEN_IN TOKEN_OUT AMOUNT</pre>
 *
 * <p>Prints a line for each event. Exits 0 when the order is CONFIRMED, 1 when it ended otherwise,
 * 2 when it was refused, 3 when nobody answered. Optional, from the environment: CLIENT_ORDER_ID,
 * to follow the same order again; API_KEY; CA_FILE, the PEM file of an authority, for TLS.
 */
public final class Swap {
  /** What passes by itself, if the same is asked again. */
  private static final Set<Status.Code> TRANSIENT =
      Set.of(
          Status.Code.UNAVAILABLE, Status.Code.DEADLINE_EXCEEDED, Status.Code.RESOURCE_EXHAUSTED);

  private static final Duration PATIENCE = Duration.ofSeconds(60);
  private static final long FIRST_BACKOFF_MS = 100;
  private static final long LAST_BACKOFF_MS = 2_000;

  private static final Metadata.Key<String> AUTHORIZATION =
      Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER);
  private static final Metadata.Key<String> PUSHBACK =
      Metadata.Key.of("grpc-retry-pushback-ms", Metadata.ASCII_STRING_MARSHALLER);

  private final ManagedChannel channel;
  private final OrderServiceBlockingStub engine;

  private Swap(ManagedChannel channel, Optional<String> apiKey) {
    Metadata headers = new Metadata();
    apiKey.ifPresent(key -> headers.put(AUTHORIZATION, "Bearer " + key));
    this.channel = channel;
    this.engine =
        OrderServiceGrpc.newBlockingStub(channel)
            .withInterceptors(MetadataUtils.newAttachHeadersInterceptor(headers));
  }

  /** Bridges outages; begins anew whenever the engine was heard. */
  private final class Patience {
    private long endsAt;
    private long backoffMs;

    Patience() {
      renew();
    }

    void renew() {
      endsAt = System.nanoTime() + PATIENCE.toNanos();
      backoffMs = FIRST_BACKOFF_MS;
    }

    /** Returns when it is time to ask again; throws the error when that would not help. */
    void await(StatusRuntimeException error) throws InterruptedException {
      if (!TRANSIENT.contains(error.getStatus().getCode()) || System.nanoTime() > endsAt) {
        throw error;
      }
      // The engine may know better than we do when to come back.
      Metadata trailers = error.getTrailers();
      String pushback = trailers == null ? null : trailers.get(PUSHBACK);
      long delayMs = pushback == null ? backoffMs : Long.parseLong(pushback);
      backoffMs = Math.min(2 * backoffMs, LAST_BACKOFF_MS);
      System.err.printf("%s; again in %d ms%n", error.getMessage(), delayMs);
      Thread.sleep(delayMs);
      // The channel's own pause between connections would grow to two minutes.
      channel.resetConnectBackoff();
    }
  }

  /** The accepted order. Safe to repeat: the same client_order_id is the same order. */
  private Order submit(SubmitOrderRequest request) throws InterruptedException {
    Patience patience = new Patience();
    while (true) {
      try {
        return engine.submitOrder(request).getOrder();
      } catch (StatusRuntimeException error) {
        patience.await(error);
      }
    }
  }

  /** Shows every event, each once and in sequence; returns the status that the order ended in. */
  private OrderStatus watch(String clientOrderId, Consumer<OrderEvent> show)
      throws InterruptedException {
    OrderStatus status = OrderStatus.ORDER_STATUS_UNSPECIFIED;
    Patience patience = new Patience();
    WatchOrderRequest.Builder request =
        WatchOrderRequest.newBuilder().setClientOrderId(clientOrderId).setAfterSequence(0);
    while (true) {
      try {
        var responses = engine.watchOrder(request.build());
        while (responses.hasNext()) {
          WatchOrderResponse response = responses.next();
          patience.renew();
          if (response.hasEvent()) {
            request.setAfterSequence(response.getEvent().getSequence());
            status = response.getEvent().getStatus();
            show.accept(response.getEvent());
          }
        }
        return status;
      } catch (StatusRuntimeException error) {
        patience.await(error);
      }
    }
  }

  private static ManagedChannel connect(String address, Optional<String> caFile)
      throws IOException {
    ChannelCredentials credentials =
        caFile.isEmpty()
            ? InsecureChannelCredentials.create()
            : TlsChannelCredentials.newBuilder().trustManager(new File(caFile.get())).build();
    return Grpc.newChannelBuilder(address, credentials)
        .defaultServiceConfig(serviceConfig())
        .keepAliveTime(10, TimeUnit.SECONDS)
        .keepAliveTimeout(5, TimeUnit.SECONDS)
        .build();
  }

  /** How gRPC itself tries again, and the deadline of every call. */
  private static Map<String, ?> serviceConfig() throws IOException {
    try (var file = Swap.class.getResourceAsStream("/service_config.json")) {
      var reader = new InputStreamReader(file, StandardCharsets.UTF_8);
      return new Gson().fromJson(reader, new TypeToken<Map<String, ?>>() {}.getType());
    }
  }

  private static int swap(String address, String tokenIn, String tokenOut, String amountIn)
      throws Exception {
    // One for each intent. A bot writes it down before it is first sent, and so survives a crash.
    String clientOrderId = setting("CLIENT_ORDER_ID").orElse("example-" + UUID.randomUUID());
    ManagedChannel channel = connect(address, setting("CA_FILE"));
    try {
      Swap client = new Swap(channel, setting("API_KEY"));
      Order order =
          client.submit(
              SubmitOrderRequest.newBuilder()
                  .setClientOrderId(clientOrderId)
                  .setTokenIn(tokenIn)
                  .setTokenOut(tokenOut)
                  .setAmountIn(amountIn)
                  .build());
      System.err.printf("%s is order %s%n", clientOrderId, order.getOrderId());
      OrderStatus status =
          client.watch(
              clientOrderId,
              event ->
                  System.out.printf(
                      "%d %s %s%n", event.getSequence(), event.getType(), event.getStatus()));
      return status == OrderStatus.ORDER_STATUS_CONFIRMED ? 0 : 1;
    } catch (StatusRuntimeException error) {
      System.err.printf("%s: %s%n", clientOrderId, error.getMessage());
      return TRANSIENT.contains(error.getStatus().getCode()) ? 3 : 2;
    } finally {
      channel.shutdownNow();
    }
  }

  private static Optional<String> setting(String name) {
    return Optional.ofNullable(System.getenv(name)).filter(value -> !value.isEmpty());
  }

  public static void main(String[] args) throws Exception {
    if (args.length != 4) {
      System.err.println("usage: Swap HOST:PORT TOKEN_IN TOKEN_OUT AMOUNT");
      System.exit(2);
    }
    System.exit(swap(args[0], args[1], args[2], args[3]));
  }
}
