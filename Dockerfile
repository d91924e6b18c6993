# syntax=docker/dockerfile:1

# ---- build: everything lands in a virtual environment, which is all that the image takes over -----------------
# Not the slim image, which has no compiler, but the same Debian.
FROM python:3.13-trixie AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_ONLY_BINARY=:all:
WORKDIR /build
COPY pyproject.toml constraints.txt README.md LICENSE ./

# constraints.txt pins every extra, development tools included. `pip install --require-hashes -r` would install all
# of it, and not every pip takes the hashes of a list that it is only given as `-c`. So pip resolves what is needed
# by the pinned versions, and before anything is installed, each wheel's hash has to stand in constraints.txt.
RUN sed -e '/^#/d' -e '/^ *--hash/d' -e 's/ [\\]$//' constraints.txt > versions.txt

# The tools that build the project's own wheel; they stay in this stage.
RUN --mount=type=cache,target=/root/.cache/pip \
    pip download --quiet -c versions.txt -d tools hatchling hatch-mypyc \
    && sha256sum tools/*.whl | cut -c -64 | xargs -I HASH grep -q -e --hash=sha256:HASH constraints.txt \
    && python -m venv tools/venv \
    && tools/venv/bin/pip install --quiet --no-index --find-links tools hatchling hatch-mypyc

COPY producer producer
COPY worker worker
# Built twice: as it is, to be asked what it needs, and then compiled, where the types of all that are at hand.
RUN tools/venv/bin/pip wheel --quiet --no-deps --no-build-isolation -w plain .
RUN --mount=type=cache,target=/root/.cache/pip \
    pip download --quiet -c versions.txt -d wheels "$(echo plain/chatrelay-*.whl)[worker,cli]" \
    && rm wheels/chatrelay-*.whl \
    && sha256sum wheels/*.whl | cut -c -64 | xargs -I HASH grep -q -e --hash=sha256:HASH constraints.txt \
    && tools/venv/bin/pip install --quiet --no-index --find-links wheels --find-links plain "chatrelay[worker,cli]"
RUN HATCH_BUILD_HOOK_ENABLE_MYPYC=1 tools/venv/bin/pip wheel --quiet --no-deps --no-build-isolation -w dist . \
    && python -m venv --without-pip /opt/chatrelay \
    && pip --python /opt/chatrelay/bin/python install --quiet --no-index --find-links wheels --find-links dist \
       "chatrelay[worker,cli]"

# ---- the image -----------------------------------------------------------------------------------------------
FROM python:3.13-slim-trixie
RUN useradd --system --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin chatrelay
COPY --from=build /opt/chatrelay /opt/chatrelay
ENV PATH=/opt/chatrelay/bin:$PATH
USER 10001:10001

# No shell in between: SIGTERM reaches the worker, which then drains. There is no embedded server in here, so
# CHAT_REDIS_URL has to be set. `chat-producer` is here as well: --entrypoint chat-producer.
STOPSIGNAL SIGTERM
ENTRYPOINT ["chat-worker"]
CMD ["run"]
