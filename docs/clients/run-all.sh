#!/bin/sh
# Runs every recipe of this folder against a server of its own, which ends with it.
#
#     docs/clients/run-all.sh [OMS]      OMS: the program, target/release/oms unless it is said
#
# Needs curl, jq, and node 20 with npm. The packages go to a scratch folder; nothing is left behind.
set -eu

oms=$(realpath "${1:-target/release/oms}")
here=$(realpath "$(dirname "$0")")
scratch=$(mktemp -d)
# The embedded Postgres may run as another user.
chmod 755 "$scratch"
server=
end() {
    if [ -n "$server" ]; then
        kill "$server" 2>/dev/null || true
        wait "$server" 2>/dev/null || true
    fi
    rm -rf "$scratch"
}
trap end EXIT
trap 'exit 1' HUP INT TERM

export OMS_DATA_DIR="$scratch/data" OMS_LISTEN=127.0.0.1:8097
"$oms" serve >"$scratch/server.log" 2>&1 &
server=$!
export OMS_URL="http://$OMS_LISTEN/graphql"
tries=0
until curl -sf "http://$OMS_LISTEN/readyz" >/dev/null; do
    tries=$((tries + 1))
    if [ "$tries" -ge 150 ] || ! kill -0 "$server" 2>/dev/null; then
        cat "$scratch/server.log" >&2
        exit 1
    fi
    sleep 0.2
done
OMS_API_KEY=$("$oms" keys create --app storefront --scopes orders:write --json | jq -er .secret)
export OMS_API_KEY

mkdir -p "$scratch/docs"
cp -r "$here" "$scratch/docs/clients"
cp "$here/../../schema.graphql" "$scratch/"
cd "$scratch/docs/clients"
rm -rf node_modules __generated__
npm install --no-audit --no-fund --loglevel=error
npm run --silent relay
./curl.sh
for recipe in apollo urql relay graphql-ws graphql-sse; do
    node "$recipe.mjs"
done
echo 'every recipe has done its work'
