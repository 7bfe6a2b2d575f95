# Images of one static binary each, and nothing else: no shell, no C library, no user but 65532.
#
#   docker build --target node --tag annulus/node:dev .            and `operator`, `cli`
#
# BINARIES says where the binaries come from: `built` compiles them here, in an image with Rust; `prebuilt` takes those that
# `charts/images binaries` left in target/images/bin, and needs no registry. Without Docker, `charts/images` makes the same images.
ARG BINARIES=built

FROM rust:1.95-slim AS built
WORKDIR /source
COPY . .
# The caches outlive the step, what it has built does not: so it copies it out.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/cache \
    CARGO_TARGET_DIR=/cache charts/images binaries && cp -r target/images/bin /binaries

FROM scratch AS prebuilt
COPY target/images/bin /binaries

FROM ${BINARIES} AS binaries

# A member: `annulus node`, with its settings in ANNULUS_* and its data in a volume at /var/lib/annulus.
FROM scratch AS node
COPY --from=binaries /binaries/annulus /annulus
USER 65532:65532
EXPOSE 7070 7071 7072
ENTRYPOINT ["/annulus"]
CMD ["node"]

FROM scratch AS operator
COPY --from=binaries /binaries/annulus-operator /annulus-operator
USER 65532:65532
EXPOSE 8080
ENTRYPOINT ["/annulus-operator"]

# The same binary as a member's, as a command: `docker run --rm annulus/cli status`.
FROM scratch AS cli
COPY --from=binaries /binaries/annulus /annulus
USER 65532:65532
ENTRYPOINT ["/annulus"]
