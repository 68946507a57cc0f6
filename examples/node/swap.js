// One swap, submitted once and followed to its end, whatever becomes of the connection.
//
//     swap.js HOST:PORT TOKEN_IN TOKEN_OUT AMOUNT
//
// Prints a line for each event. Exits 0 when the order is CONFIRMED, 1 when it ended otherwise, 2
// when it was refused, 3 when nobody answered. Optional, from the environment: CLIENT_ORDER_ID, to
// follow the same order again; API_KEY; CA_FILE, the PEM file of an authority, for TLS.

import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";

import grpc from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";

// How gRPC itself tries again, and the deadline of every call.
const SERVICE_CONFIG = new URL("../../oee/service_config.json", import.meta.url);
const PROTOS = fileURLToPath(new URL("../../protos", import.meta.url));
// What passes by itself, if the same is asked again.
const TRANSIENT = [
  grpc.status.UNAVAILABLE,
  grpc.status.DEADLINE_EXCEEDED,
  grpc.status.RESOURCE_EXHAUSTED,
];
const PATIENCE_MS = 60_000;
const FIRST_BACKOFF_MS = 100;
const LAST_BACKOFF_MS = 2_000;

const { engine } = grpc.loadPackageDefinition(
  loadSync("engine/v1/orders.proto", {
    includeDirs: [PROTOS],
    keepCase: true,
    longs: String, // a sequence has 64 bits
    enums: String, // a value that is newer than the proto is shown as its number
    oneofs: true,
  }),
);

/** Bridges outages; begins anew whenever the engine was heard. */
class Patience {
  constructor() {
    this.renew();
  }

  renew() {
    this.ends = performance.now() + PATIENCE_MS;
    this.backoff = FIRST_BACKOFF_MS;
  }

  /** Resolves when it is time to ask again; throws the error when that would not help. */
  async wait(error) {
    if (!TRANSIENT.includes(error.code) || performance.now() > this.ends) {
      throw error;
    }
    // The engine may know better than we do when to come back.
    const [pushback] = error.metadata.get("grpc-retry-pushback-ms");
    const delay = pushback === undefined ? this.backoff : Number(pushback);
    this.backoff = Math.min(2 * this.backoff, LAST_BACKOFF_MS);
    console.error(`${error.message}; again in ${delay} ms`);
    await sleep(delay);
  }
}

/** The accepted order. Safe to repeat: the same client_order_id is the same order. */
async function submit(client, request, metadata) {
  const patience = new Patience();
  for (;;) {
    try {
      const { order } = await new Promise((resolve, reject) => {
        client.SubmitOrder(request, metadata, (error, response) =>
          error ? reject(error) : resolve(response),
        );
      });
      return order;
    } catch (error) {
      await patience.wait(error);
    }
  }
}

/** Every event, each once and in sequence, until the order has ended. */
async function* watch(client, client_order_id, metadata) {
  const patience = new Patience();
  const request = { client_order_id, after_sequence: 0 };
  for (;;) {
    try {
      for await (const { event } of client.WatchOrder(request, metadata)) {
        patience.renew();
        if (event) {
          request.after_sequence = event.sequence;
          yield event;
        }
      }
      return;
    } catch (error) {
      await patience.wait(error);
    }
  }
}

function connect(address, caFile) {
  const credentials = caFile
    ? grpc.credentials.createSsl(readFileSync(caFile))
    : grpc.credentials.createInsecure();
  return new engine.v1.OrderService(address, credentials, {
    "grpc.service_config": readFileSync(SERVICE_CONFIG, "utf8"),
    "grpc.max_reconnect_backoff_ms": LAST_BACKOFF_MS,
    "grpc.keepalive_time_ms": 10_000,
    "grpc.keepalive_timeout_ms": 5_000,
  });
}

async function main([address, token_in, token_out, amount_in, ...more]) {
  if (amount_in === undefined || more.length > 0) {
    console.error("usage: swap.js HOST:PORT TOKEN_IN TOKEN_OUT AMOUNT");
    return 2;
  }
  // One for each intent. A bot writes it down before it is first sent, and so survives a crash.
  const client_order_id = process.env.CLIENT_ORDER_ID || `example-${randomUUID()}`;
  const metadata = new grpc.Metadata();
  if (process.env.API_KEY) {
    metadata.set("authorization", `Bearer ${process.env.API_KEY}`);
  }
  const client = connect(address, process.env.CA_FILE);
  let status;
  try {
    const request = { client_order_id, token_in, token_out, amount_in };
    const { order_id } = await submit(client, request, metadata);
    console.error(`${client_order_id} is order ${order_id}`);
    for await (const event of watch(client, client_order_id, metadata)) {
      console.log(event.sequence, event.type, event.status);
      status = event.status;
    }
  } catch (error) {
    console.error(`${client_order_id}: ${error.message}`);
    return TRANSIENT.includes(error.code) ? 3 : 2;
  } finally {
    client.close();
  }
  return status === "ORDER_STATUS_CONFIRMED" ? 0 : 1;
}

process.exitCode = await main(process.argv.slice(2));
