# The image of matome: one binary, no shell, not root. Build it with `docker build -t matome .`
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# The caches stay on the machine that builds; the binary is copied out of them.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked \
    && install -D --mode=0755 target/release/matome /image/usr/local/bin/matome \
    && install -d --mode=0700 --owner=65532 --group=65532 /image/data

FROM gcr.io/distroless/cc-debian12:nonroot
LABEL org.opencontainers.image.title="matome" \
    org.opencontainers.image.description="Brings scattered data together: fetch, keep, aggregate, serve" \
    org.opencontainers.image.licenses="MIT OR Apache-2.0"
COPY --from=build /image/ /
# Number instead of name, so that Kubernetes can see that it is not root.
USER 65532:65532
ENV MATOME_DATA_DIR=/data
VOLUME /data
WORKDIR /data
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["/usr/local/bin/matome", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/matome"]
# Beyond loopback, because the port of a container is reached from outside of it.
CMD ["serve", "--bind", "0.0.0.0:8000"]
