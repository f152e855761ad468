// graphql-sse: each operation is a POST whose answer is a stream of events.

import { setTimeout as sleep } from "node:timers/promises";
import { createClient } from "graphql-sse";
import { GET_ORDER, ORDER_STATUS, PLACE_ORDER, accepted, conclude, credential, newOrder, patientFetch, resumable, url } from "./shared.mjs";

let cable;
let connections = 0;
let status;
const client = createClient({
  url,
  headers: () => credential,
  retryAttempts: 10,
  // Without this the library repeats a refusal, such as a 401, like a lost connection.
  retry: async (retries) => {
    if (status >= 400 && status < 500) throw new Error(`the server answers ${status}`);
    await sleep(Math.min(1000 * 2 ** retries, 30_000) * (0.5 + Math.random() / 2));
  },
  // The cable stands for a network that fails.
  fetchFn: async (input, init) => {
    cable = new AbortController();
    connections += 1;
    status = undefined;
    const response = await patientFetch(input, { ...init, signal: AbortSignal.any([init.signal, cable.signal]) });
    status = response.status;
    return response;
  },
});

async function once(query, variables) {
  for await (const result of client.iterate({ query, variables })) {
    if (result.errors) throw new Error(JSON.stringify(result.errors));
    return result.data;
  }
}

const { placeOrder } = await once(PLACE_ORDER, { input: newOrder() });
const { id } = accepted(placeOrder).order;

connections = 0;
const watch = resumable(id);
for await (const { data, errors } of client.iterate({ query: ORDER_STATUS, variables: watch.variables })) {
  if (errors) throw new Error(JSON.stringify(errors));
  watch.seen(data.orderStatus);
  if (data.orderStatus.sequence === 2) cable.abort(); // The connection is lost.
}
const lost = connections;

const { getOrder } = await once(GET_ORDER, { id });
conclude("graphql-sse", getOrder, watch.updates, lost);
client.dispose();
