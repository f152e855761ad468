// What the examples share: where the API is, the operations, and how a watch goes on after a lost connection.

import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";

export const url = process.env.OMS_URL ?? "http://127.0.0.1:8080/graphql";
export const wsUrl = url.replace(/^http/, "ws");

const key = process.env.OMS_API_KEY ?? fail("set OMS_API_KEY to a key with the scope orders:write");

/** Headers of HTTP requests, and just as well the payload of `connection_init`. */
export const credential = { Authorization: `Bearer ${key}` };

export const PLACE_ORDER = /* GraphQL */ `
  mutation PlaceOrder($input: PlaceOrderInput!) {
    placeOrder(input: $input) {
      order { id status }
      replayed
      accessToken
      userErrors { __typename code message path }
    }
  }
`;

export const ORDER_STATUS = /* GraphQL */ `
  subscription OrderStatus($id: ID!, $after: Int) {
    orderStatus(id: $id, after: $after) {
      orderId
      sequence
      status
      event { sequence type }
    }
  }
`;

export const GET_ORDER = /* GraphQL */ `
  query GetOrder($id: ID!) {
    getOrder(id: $id) { id number status paymentStatus sequence totals { total { amount currency } } }
  }
`;

/** An order that takes a moment, so that its connection can be lost on the way. */
export function newOrder() {
  // A shop keeps the key with the cart: the same key is the same order, however often the call is repeated.
  return {
    idempotencyKey: `example-${randomUUID()}`,
    lines: [{ sku: "SKU-1", quantity: 1 }],
    payment: { token: "tok_slow" },
  };
}

/** Returns the payload of `placeOrder`, or throws its refusals: nothing was written then. */
export function accepted(payload) {
  if (payload.userErrors.length > 0) {
    throw new Error(payload.userErrors.map((error) => `${error.code} at ${error.path.join(".")}: ${error.message}`).join("; "));
  }
  return payload;
}

/**
 * Variables of a watch that continue where it has arrived. Libraries repeat a lost subscription with the payload that
 * they were given, which they write out anew each time: the getter then gives the last sequence that was seen.
 */
export function resumable(id) {
  let last = 0;
  const updates = [];
  const variables = { id, get after() { return last; } };
  const seen = (update) => {
    if (update.sequence !== last + 1) throw new Error(`event ${update.sequence} came after event ${last}`);
    last = update.sequence;
    updates.push(update);
  };
  return { variables, seen, updates };
}

/** Calls `fetch`, and again when the answer says later. Give it to a client library in place of `fetch`. */
export async function patientFetch(input, init) {
  for (let attempt = 1; ; attempt += 1) {
    const response = await fetch(input, init);
    // 429: nothing has run. 503: nobody knows, so that mutations are safe to repeat with an idempotency key only.
    if (attempt === 5 || (response.status !== 429 && response.status !== 503)) return response;
    const seconds = Number(response.headers.get("retry-after") ?? 1);
    await sleep(seconds * 1000 + Math.random() * 250, undefined, { signal: init?.signal ?? undefined });
  }
}

/** Checks that the order was confirmed, that its connection was lost and resumed, and that no event is missing or double. */
export function conclude(name, order, updates, connections) {
  const types = updates.map((update) => update.event.type);
  if (updates.at(-1)?.status !== "CONFIRMED") fail(`the watch ended with ${updates.at(-1)?.status}: ${types}`);
  if (connections < 2) fail(`the connection was never lost: ${connections}`);
  if (order?.status !== "CONFIRMED" || order.sequence !== updates.length) fail(`read ${JSON.stringify(order)}`);
  console.log(`${name}: order ${order.number} is ${order.status}, ${updates.length} events over ${connections} connections`);
}

export function fail(message) {
  console.error(message);
  process.exit(1);
}

// A watch that never ends is a failure as well.
setTimeout(() => fail("not done after 60 s"), 60_000).unref();
