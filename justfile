# A menu of plain commands; none of them needs just.

# What there is.
default:
    @just --list

# Everything that CI runs.
all:
    cargo xtest

# Formatting, lints, dependencies and documentation: what is quick to ask.
check:
    cargo xtest fmt clippy deny doc

# Unit tests, scripts with golden traces, tidy.
test:
    cargo test --workspace

# The simulator: `just sim 1000` for more seeds.
sim seeds="200":
    ANNULUS_SEEDS={{seeds}} cargo test --release -p annulus-tests --test simulator

# The store and its operator together in one seed: `just operated 500` for more seeds.
operated seeds="50":
    ANNULUS_SEEDS={{seeds}} cargo test --release -p annulus-tests --test operated

# Stores of real processes as their users have them, killed under load; no Kubernetes in it.
e2e:
    cargo build --release -p annulus
    cargo test --release -p annulus-tests --test dev --test ring --test together --test sidecar

# Container images, without Docker: target/images/*.tar, tagged annulus/node:TAG and annulus/operator:TAG.
images tag="dev":
    TAG={{tag}} charts/images

# The Helm charts.
charts:
    cargo xtest charts chart-tests

# The same on a kind cluster that is made for it, with images made of what is here; what that needs stands in .ci/kubernetes.
kind *tests:
    .ci/kubernetes {{tests}}

# Everything on the Kubernetes cluster that KUBECONFIG names; what it needs stands in tests/tests/kubernetes/main.rs.
kubernetes:
    ANNULUS_E2E=1 cargo test -p annulus-tests --test kubernetes -- --test-threads 1 --nocapture

# Load on a store that runs on this machine (`cargo run --release -p annulus -- dev`).
bench *arguments:
    cargo run --release -p annulus -- bench {{arguments}}

# The documentation, in the browser.
doc:
    cargo doc --workspace --no-deps --open

# What RustSec knows of our dependencies; needs to reach github.com.
advisories:
    cargo deny check advisories
