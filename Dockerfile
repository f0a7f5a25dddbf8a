# vhsbench on a GPU server: docs/howto/containers.md. torch's wheels bring CUDA along: the host needs NVIDIA's driver and container toolkit.
FROM python:3.11.14-slim-bookworm@sha256:65a93d69fa75478d554f4ad27c85c1e69fa184956261b4301ebaf6dbb0a3543d

# a compiler for the variants that compile (Triton); Debian keeps no earlier versions that could be pinned
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
RUN pip install --no-cache-dir uv==0.13.9

ENV UV_PROJECT_ENVIRONMENT=/opt/venv UV_PYTHON=/usr/local/bin/python UV_PYTHON_DOWNLOADS=never UV_NO_CACHE=1
WORKDIR /opt/vhsbench
# dependencies by themselves: a change of the code does not download them again
COPY pyproject.toml uv.lock ./
RUN uv sync --frozen --no-install-project --extra geneval --extra ray --extra s3
COPY . .
RUN uv sync --frozen --no-editable --extra geneval --extra ray --extra s3

# any user may run it (docker run --user): /work and /models are everyone's
RUN useradd --uid 1000 --no-create-home bench && mkdir --mode=1777 /work /models
# by number: a host may be set to refuse users that it cannot tell from root
USER 1000
ENV PATH=/opt/venv/bin:$PATH HOME=/work USER=bench HF_HOME=/models
WORKDIR /work
ENTRYPOINT ["vhsbench"]
CMD ["run"]
