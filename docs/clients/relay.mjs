// Relay: a network layer of one function for HTTP and one for graphql-ws; `node`, and a connection read page by page.

import RelayRuntime from "relay-runtime";
import { createClient } from "graphql-ws";
import WebSocket from "ws";
import ORDER from "./__generated__/relayOperationsOrderQuery.graphql.js";
import ORDER_STATUS from "./__generated__/relayOperationsOrderStatusSubscription.graphql.js";
import ORDERS from "./__generated__/relayOperationsOrdersQuery.graphql.js";
import PLACE_ORDER from "./__generated__/relayOperationsPlaceOrderMutation.graphql.js";
import { accepted, conclude, credential, fail, newOrder, patientFetch, resumable, url, wsUrl } from "./shared.mjs";

const { Environment, Network, Observable, RecordSource, Store } = RelayRuntime;
const { commitMutation, createOperationDescriptor, fetchQuery, getRequest, requestSubscription } = RelayRuntime;

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

async function fetchFn({ text, name }, variables) {
  const response = await patientFetch(url, {
    method: "POST",
    headers: { ...credential, "content-type": "application/json", accept: "application/graphql-response+json, application/json;q=0.9" },
    body: JSON.stringify({ query: text, operationName: name, variables }),
  });
  // Every answer is a GraphQL response, whatever its status.
  const result = await response.json();
  if (result.errors) throw new Error(result.errors.map(({ message, extensions }) => `${extensions?.code}: ${message}`).join("; "));
  return result;
}

function subscribeFn({ text, name }, variables) {
  return Observable.create((sink) => {
    // graphql-ws repeats a lost subscription with the variables as they are then.
    const watch = resumable(variables.id);
    return wsClient.subscribe(
      { query: text, operationName: name, variables: watch.variables },
      {
        next: (result) => {
          if (result.data?.orderStatus) watch.seen(result.data.orderStatus);
          sink.next(result);
        },
        error: sink.error,
        complete: sink.complete,
      },
    );
  });
}

const environment = new Environment({
  network: Network.create(fetchFn, subscribeFn),
  store: new Store(new RecordSource()),
});

const { placeOrder } = await new Promise((resolve, reject) => {
  commitMutation(environment, { mutation: PLACE_ORDER, variables: { input: newOrder() }, onCompleted: resolve, onError: reject });
});
const { id } = accepted(placeOrder).order;

const updates = [];
await new Promise((resolve, reject) => {
  requestSubscription(environment, {
    subscription: ORDER_STATUS,
    variables: { id },
    onNext: ({ orderStatus }) => {
      updates.push(orderStatus);
      if (orderStatus.sequence === 2) socket.terminate(); // The connection is lost.
    },
    onError: reject,
    onCompleted: resolve,
  });
});

// Each update carries the order, so that its record in the store is current without another request.
if (environment.getStore().getSource().get(id)?.status !== "CONFIRMED") fail("the store has not followed the order");

// A second order, so that the connection has two pages of one.
await new Promise((resolve, reject) => {
  const input = { ...newOrder(), payment: undefined };
  commitMutation(environment, { mutation: PLACE_ORDER, variables: { input }, onCompleted: resolve, onError: reject });
});
const first = await fetchQuery(environment, ORDERS, { first: 1 }).toPromise();
// The connection handler appends the page after `endCursor`. In React, usePaginationFragment does this.
const operation = createOperationDescriptor(getRequest(ORDERS), { first: 1 });
const held = environment.retain(operation);
await fetchQuery(environment, ORDERS, { first: 1, after: first.orders.pageInfo.endCursor }).toPromise();
const { edges } = environment.lookup(operation.fragment).data.orders;
if (new Set(edges.map(({ node }) => node.id)).size !== 2) fail(`the connection has ${edges.length} edges`);
held.dispose();

const { node } = await fetchQuery(environment, ORDER, { id }).toPromise();
conclude("relay", node, updates, connections);
await wsClient.dispose();
