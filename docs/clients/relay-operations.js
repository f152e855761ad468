// The operations of relay.mjs. `npm run relay` compiles them against the schema; Relay names operations after their module.

import { graphql } from "relay-runtime";

export const placeOrder = () => graphql`
  mutation relayOperationsPlaceOrderMutation($input: PlaceOrderInput!) {
    placeOrder(input: $input) {
      order { id status }
      userErrors { code message path }
    }
  }
`;

export const orderStatus = () => graphql`
  subscription relayOperationsOrderStatusSubscription($id: ID!, $after: Int) {
    orderStatus(id: $id, after: $after) {
      sequence
      status
      event { type }
      order { id status }
    }
  }
`;

export const order = () => graphql`
  query relayOperationsOrderQuery($id: ID!) {
    node(id: $id) {
      id
      ... on Order { number status sequence totals { total { amount currency } } }
    }
  }
`;

export const orders = () => graphql`
  query relayOperationsOrdersQuery($first: Int!, $after: String) {
    orders(first: $first, after: $after) @connection(key: "examples_orders") {
      edges { node { id number status } }
      pageInfo { endCursor hasNextPage }
    }
  }
`;
