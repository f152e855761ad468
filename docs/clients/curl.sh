#!/bin/sh
# Plain curl: place an order, watch it over a connection that is lost, read it, follow the changes, and wait when told to.
# Needs curl and jq.
set -eu

url=${OMS_URL:-http://127.0.0.1:8080/graphql}
: "${OMS_API_KEY:?set it to a key with the scope orders:write}"
key="x-api-key: $OMS_API_KEY"
json='content-type: application/json'
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

fail() { echo "$*" >&2; exit 1; }

# ask QUERY VARIABLES: prints the answer; repeats what is refused with 429 or 503 after Retry-After.
ask() {
    body=$(jq -n --arg query "$1" --argjson variables "$2" '{query: $query, variables: $variables}')
    for _ in 1 2 3 4 5; do
        status=$(curl -sS "$url" -H "$key" -H "$json" -d "$body" -D "$scratch/headers" -o "$scratch/answer" -w '%{http_code}')
        case $status in
        429 | 503)
            seconds=$(tr -d '\r' <"$scratch/headers" | awk -F': ' 'tolower($1) == "retry-after" { print $2 }')
            echo "$status: $(jq -r '.errors[0].extensions.code' "$scratch/answer"), again in ${seconds:-1} s" >&2
            sleep "${seconds:-1}"
            ;;
        *) cat "$scratch/answer"; return ;;
        esac
    done
    fail "no points left after five tries"
}

# Place an order, twice: the key makes it one order.
place='mutation ($input: PlaceOrderInput!) { placeOrder(input: $input) { order { id } replayed accessToken userErrors { code message path } } }'
cart="curl-$(date +%s)-$$"
input=$(jq -n --arg key "$cart" '{input: {idempotencyKey: $key, lines: [{sku: "SKU-1", quantity: 1}], payment: {token: "tok_slow"}}}')
placed=$(ask "$place" "$input")
id=$(printf %s "$placed" | jq -er '.data.placeOrder.order.id') || fail "$placed"
token=$(printf %s "$placed" | jq -er '.data.placeOrder.accessToken') || fail "no access token"
again=$(ask "$place" "$input")
printf %s "$again" | jq -e --arg id "$id" '.data.placeOrder | .replayed and .order.id == $id' >/dev/null || fail "$again"

# The same key with another input is refused, and nothing is written.
other=$(ask "$place" "$(printf %s "$input" | jq '.input.lines[0].quantity = 2')")
printf %s "$other" | jq -e '.data.placeOrder.userErrors[0].code == "IDEMPOTENCY_KEY_REUSED"' >/dev/null || fail "$other"

# Watch it with the order's own access token. The first connection is lost after a second.
watch=$(jq -n --arg id "$id" '{query: "subscription ($id: ID!) { orderStatus(id: $id) { sequence status event { type } } }", variables: {id: $id}}')
stream() { curl -sSN "$url" -H "authorization: Bearer $token" -H "$json" -H 'accept: text/event-stream' -d "$watch" "$@"; }
stream --max-time 1 >"$scratch/first" 2>/dev/null || true
last=$(sed -n 's/^id: *//p' "$scratch/first" | tail -1)
[ -n "$last" ] || fail "nothing arrived before the connection was lost"
if grep -q '^event: *complete' "$scratch/first"; then fail "the connection was not lost"; fi
stream --max-time 50 -H "last-event-id: $last" >"$scratch/second"
grep -q '^event: *complete' "$scratch/second" || fail "the watch ended without complete"
sequences=$(cat "$scratch/first" "$scratch/second" | sed -n 's/^id: *//p' | tr '\n' ' ')
[ "$sequences" = "$(seq -s ' ' 1 "$(echo "$sequences" | wc -w)") " ] || fail "events $sequences"

# Read it.
read=$(ask 'query ($id: ID!) { getOrder(id: $id) { number status totals { total { amount currency } } } }' "$(jq -n --arg id "$id" '{id: $id}')")
printf %s "$read" | jq -e '.data.getOrder.status == "CONFIRMED"' >/dev/null || fail "$read"
printf %s "$read" | jq -c .extensions.cost

# Follow all orders of the app until the feed has nothing more. Keep the cursor with what was done with the events.
feed='query ($after: String) { changes(first: 100, after: $after) { nodes { event { sequence type } order { id } } endCursor hasNextPage } }'
cursor=null
confirmed=0
while :; do
    page=$(ask "$feed" "{\"after\": $cursor}")
    cursor=$(printf %s "$page" | jq -e '.data.changes.endCursor') || fail "$page"
    found=$(printf %s "$page" | jq --arg id "$id" '[.data.changes.nodes[] | select(.order.id == $id and .event.type == "OrderConfirmed")] | length')
    confirmed=$((confirmed + found))
    [ "$(printf %s "$page" | jq .data.changes.hasNextPage)" = true ] || break
done
[ "$confirmed" = 1 ] || fail "the feed shows the confirmation $confirmed times"

# Spend the app's points, unless it has no limit: `ask` waits and repeats.
if [ "$(printf %s "$read" | jq .extensions.cost.throttle)" != null ]; then
    for _ in 1 2 3; do
        costly=$(ask 'query { orders(first: 60) { nodes { lines { sku } } } }' '{}')
        printf %s "$costly" | jq -e .data.orders >/dev/null || fail "$costly"
    done
fi

echo "curl: order $(printf %s "$read" | jq .data.getOrder.number) is CONFIRMED, events $sequences"
