// urql: queries and mutations over HTTP, subscriptions over graphql-ws.

import { Client, cacheExchange, fetchExchange, subscriptionExchange } from "@urql/core";
import { createClient } from "graphql-ws";
import WebSocket from "ws";
import { GET_ORDER, ORDER_STATUS, PLACE_ORDER, accepted, conclude, credential, newOrder, patientFetch, resumable, url, wsUrl } from "./shared.mjs";

let socket;
let connections = 0;
const wsClient = createClient({
  url: wsUrl,
  webSocketImpl: WebSocket, // Browsers and Node 22 have one of their own.
  connectionParams: () => credential,
  retryAttempts: 10,
  shouldRetry: (event) => event?.code !== 4403,
  on: { connected: (opened) => { socket = opened; connections += 1; } },
});

const client = new Client({
  url,
  preferGetMethod: false,
  fetch: patientFetch,
  fetchOptions: () => ({ headers: credential }),
  exchanges: [
    cacheExchange,
    fetchExchange,
    subscriptionExchange({
      forwardSubscription: ({ query, variables, operationName }) => ({
        subscribe: (sink) => {
          // graphql-ws repeats a lost subscription with the variables as they are then.
          const { variables: resumed, seen } = resumable(variables.id);
          const next = (result) => {
            if (result.data?.orderStatus) seen(result.data.orderStatus);
            sink.next(result);
          };
          const { error, complete } = sink;
          const unsubscribe = wsClient.subscribe({ query, variables: resumed, operationName }, { next, error, complete });
          return { unsubscribe };
        },
      }),
    }),
  ],
});

function dataOf({ data, error }) {
  if (error) throw error;
  return data;
}

const placed = dataOf(await client.mutation(PLACE_ORDER, { input: newOrder() }).toPromise());
const { id } = accepted(placed.placeOrder).order;

const updates = [];
await new Promise((resolve, reject) => {
  client.subscription(ORDER_STATUS, { id }).subscribe(({ data, error, hasNext }) => {
    if (error) return reject(error);
    if (!hasNext) return resolve(); // At its end urql gives the last result once more.
    updates.push(data.orderStatus);
    if (data.orderStatus.sequence === 2) socket.terminate(); // The connection is lost.
  });
});

const read = dataOf(await client.query(GET_ORDER, { id }, { requestPolicy: "network-only" }).toPromise());
conclude("urql", read.getOrder, updates, connections);
await wsClient.dispose();
