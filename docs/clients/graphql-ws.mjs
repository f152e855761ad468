// graphql-ws: everything over one WebSocket.

import { createClient } from "graphql-ws";
import WebSocket from "ws";
import { GET_ORDER, ORDER_STATUS, PLACE_ORDER, accepted, conclude, credential, newOrder, resumable, wsUrl } from "./shared.mjs";

let socket;
let connections = 0;
const client = createClient({
  url: wsUrl,
  webSocketImpl: WebSocket, // Browsers and Node 22 have one of their own.
  connectionParams: () => credential,
  lazyCloseTimeout: 10_000, // Keeps the socket between operations.
  retryAttempts: 10,
  // 4403: the credential is not good, and asking again does not make it so.
  shouldRetry: (event) => event?.code !== 4403,
  on: { connected: (opened) => { socket = opened; connections += 1; } },
});

async function once(query, variables) {
  for await (const result of client.iterate({ query, variables })) {
    if (result.errors) throw new Error(JSON.stringify(result.errors));
    return result.data;
  }
}

const { placeOrder } = await once(PLACE_ORDER, { input: newOrder() });
const { id } = accepted(placeOrder).order;

const watch = resumable(id);
for await (const { data, errors } of client.iterate({ query: ORDER_STATUS, variables: watch.variables })) {
  if (errors) throw new Error(JSON.stringify(errors));
  watch.seen(data.orderStatus);
  if (data.orderStatus.sequence === 2) socket.terminate(); // The connection is lost.
}

const { getOrder } = await once(GET_ORDER, { id });
conclude("graphql-ws", getOrder, watch.updates, connections);
await client.dispose();
