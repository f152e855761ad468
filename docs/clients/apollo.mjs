// Apollo Client: queries and mutations over HTTP, subscriptions over graphql-ws.

import { ApolloClient, ApolloLink, HttpLink, InMemoryCache, gql } from "@apollo/client";
import { GraphQLWsLink } from "@apollo/client/link/subscriptions";
import { OperationTypeNode } from "graphql";
import { createClient } from "graphql-ws";
import { tap } from "rxjs";
import WebSocket from "ws";
import { GET_ORDER, ORDER_STATUS, PLACE_ORDER, accepted, conclude, credential, newOrder, patientFetch, url, wsUrl } from "./shared.mjs";

globalThis.WebSocket ??= WebSocket; // Browsers and Node 22 have one of their own.

let socket;
let connections = 0;
const wsClient = createClient({
  url: wsUrl,
  connectionParams: () => credential,
  retryAttempts: 10,
  shouldRetry: (event) => event?.code !== 4403,
  on: { connected: (opened) => { socket = opened; connections += 1; } },
});

// Moves `after` along with what was seen: graphql-ws repeats a lost subscription with the variables as they are then.
const resumeLink = new ApolloLink((operation, forward) => {
  operation.variables = { ...operation.variables };
  return forward(operation).pipe(
    tap(({ data }) => {
      if (data?.orderStatus) operation.variables.after = data.orderStatus.sequence;
    }),
  );
});

const client = new ApolloClient({
  cache: new InMemoryCache(),
  link: ApolloLink.split(
    ({ operationType }) => operationType === OperationTypeNode.SUBSCRIPTION,
    ApolloLink.from([resumeLink, new GraphQLWsLink(wsClient)]),
    new HttpLink({ uri: url, headers: credential, fetch: patientFetch }),
  ),
});

const placed = await client.mutate({ mutation: gql(PLACE_ORDER), variables: { input: newOrder() } });
const { id } = accepted(placed.data.placeOrder).order;

const updates = [];
await new Promise((resolve, reject) => {
  client.subscribe({ query: gql(ORDER_STATUS), variables: { id }, fetchPolicy: "no-cache" }).subscribe({
    next: ({ data, error }) => {
      if (error) return reject(error);
      const update = data.orderStatus;
      if (update.sequence !== updates.length + 1) return reject(new Error(`event ${update.sequence} came after event ${updates.length}`));
      updates.push(update);
      if (update.sequence === 2) socket.terminate(); // The connection is lost.
    },
    error: reject,
    complete: resolve,
  });
});

const read = await client.query({ query: gql(GET_ORDER), variables: { id }, fetchPolicy: "network-only" });
conclude("apollo", read.data.getOrder, updates, connections);
await wsClient.dispose();
client.stop();
