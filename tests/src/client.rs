//! A GraphQL client as a stranger would write one: JSON over HTTP.

use std::net::SocketAddr;

use reqwest::header::ACCEPT;
use reqwest::{RequestBuilder, Response, StatusCode, Url};
use serde_json::{Value, json};

use crate::order_input::OrderInput;
use crate::wait::within;

/// Everything there is to know about an order.
const ORDER: &str = "
    id number status paymentStatus fulfillmentStatus sequence currency
    lines { sku name quantity unitPrice { amount } total { amount } }
    totals { items { amount } shipping { amount } tax { amount } total { amount amountMinor currency } }
    email shippingAddress { name line1 line2 city postalCode region country } shippingMethod externalReference
    createdAt updatedAt confirmedAt failedAt failure { code message }
    payments { gateway status authorized { amount } captured { amount } refunded { amount } authorizedAt capturedAt voidedAt }
    process { state currentStep steps { name status attempts startedAt finishedAt message } }
    events { sequence type status data occurredAt }";

/// Every fact of every user error.
const USER_ERRORS: &str = "userErrors {
    __typename code message path
    ... on UnknownSkuError { sku }
    ... on InsufficientStockError { sku requested available }
    ... on CurrencyMismatchError { expectedCurrency: expected actualCurrency: actual }
    ... on PriceChangedError { expectedPrice: expected { amount } actualPrice: actual { amount } }
    ... on StockChangedError { expectedOnHand: expected actualOnHand: actual } }";

/// A client of one server.
#[derive(Debug, Clone)]
pub struct Client {
    addr: SocketAddr,
    http: reqwest::Client,
    credential: Option<String>,
}

/// What `placeOrder` answered.
#[derive(Debug, Clone, PartialEq)]
pub struct Placed {
    /// The order; null where it was refused.
    pub order: Value,
    /// Whether it had been there.
    pub replayed: bool,
    /// Why it was refused.
    pub errors: Vec<Value>,
}

impl Placed {
    /// Returns the id of the order.
    ///
    /// # Panics
    /// It was refused.
    pub fn id(&self) -> &str {
        self.order["id"].as_str().unwrap_or_else(|| panic!("the order was refused: {:?}", self.errors))
    }
}

impl Client {
    /// Makes a client of the server at `addr`.
    pub fn new(addr: SocketAddr) -> Self {
        // A proxy of the developer's machine has no business between a test and its server.
        let http = reqwest::Client::builder().no_proxy().build().expect("a client without TLS");
        Self { addr, http, credential: None }
    }

    /// Makes the same client with a credential: an API key or a token.
    pub fn with(&self, credential: &str) -> Self {
        Self { credential: Some(credential.to_owned()), ..self.clone() }
    }

    /// The credential that it shows; none on a server that asks for none.
    pub fn credential(&self) -> Option<&str> {
        self.credential.as_deref()
    }

    fn show(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.credential {
            Some(credential) => request.bearer_auth(credential),
            None => request,
        }
    }

    /// Where the server is.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Begins a GET.
    pub fn get(&self, path: &str) -> RequestBuilder {
        self.show(self.http.get(format!("http://{}{path}", self.addr)))
    }

    /// Begins a GET of `/graphql` with parameters.
    pub fn get_graphql(&self, parameters: &[(&str, &str)]) -> RequestBuilder {
        let url = Url::parse_with_params(&format!("http://{}/graphql", self.addr), parameters);
        self.show(self.http.get(url.expect("a URL")))
    }

    /// Begins a POST to `/graphql`.
    pub fn post(&self) -> RequestBuilder {
        self.show(self.http.post(format!("http://{}/graphql", self.addr)))
    }

    /// Sends a request and returns the answer as it is, or why there is none.
    pub async fn try_send(&self, query: &str, variables: Value) -> reqwest::Result<Response> {
        let body = json!({ "query": query, "variables": variables });
        within("an answer", self.post().header(ACCEPT, "application/json").json(&body).send()).await
    }

    /// Sends a request and returns the whole answer: `data` and `errors`.
    pub async fn send(&self, query: &str, variables: Value) -> (StatusCode, Value) {
        let response = self.try_send(query, variables).await.expect("the server answers");
        (response.status(), response.json().await.expect("it answers in JSON"))
    }

    /// Executes a query or mutation and returns its data.
    ///
    /// # Panics
    /// The answer holds errors.
    pub async fn execute(&self, query: &str, variables: Value) -> Value {
        let (status, mut answer) = self.send(query, variables).await;
        assert!(status.is_success() && answer.get("errors").is_none(), "{query}: {status} {answer}");
        answer["data"].take()
    }

    /// Places an order.
    pub async fn place(&self, input: OrderInput) -> Placed {
        let query = format!(
            "mutation ($input: PlaceOrderInput!) {{
                 placeOrder(input: $input) {{ order {{ {ORDER} }} replayed {USER_ERRORS} }} }}"
        );
        let mut data = self.execute(&query, json!({ "input": input.into_value() })).await;
        let payload = data["placeOrder"].take();
        let errors = payload["userErrors"].as_array().cloned().unwrap_or_default();
        Placed { order: payload["order"].clone(), replayed: payload["replayed"] == true, errors }
    }

    /// Reads an order; null where there is none.
    pub async fn order(&self, id: &str) -> Value {
        let query = format!("query ($id: ID!) {{ getOrder(id: $id) {{ {ORDER} }} }}");
        self.execute(&query, json!({ "id": id })).await["getOrder"].take()
    }

    /// Reads the stock of one SKU.
    pub async fn stock(&self, sku: &str) -> Value {
        let query = "query ($skus: [String!]!) { stock(skus: $skus) { sku onHand reserved available } }";
        self.execute(query, json!({ "skus": [sku] })).await["stock"][0].take()
    }

    /// Adjusts stock and returns the payload.
    pub async fn adjust_stock(&self, input: Value) -> Value {
        let query = format!(
            "mutation ($input: AdjustStockInput!) {{ adjustStock(input: $input) {{
                 stock {{ sku onHand reserved available }} replayed {USER_ERRORS} }} }}"
        );
        self.execute(&query, json!({ "input": input })).await["adjustStock"].take()
    }

    /// Writes products and returns the payload.
    pub async fn upsert_products(&self, products: Value) -> Value {
        let query = format!(
            "mutation ($input: UpsertProductsInput!) {{ upsertProducts(input: $input) {{
                 products {{ sku name price {{ amount currency }} weightGrams taxCategory stock {{ onHand }} }}
                 {USER_ERRORS} }} }}"
        );
        self.execute(&query, json!({ "input": { "products": products } })).await["upsertProducts"].take()
    }
}
