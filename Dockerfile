# diffeat on a CPU, with the embedded models:  docker build -t diffeat . && docker run --rm -v "$PWD:/data" diffeat samples photos
FROM python:3.11-slim

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1 HF_HOME=/models

WORKDIR /source
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY src src
RUN pip install -c constraints.txt '.[app,eval]' \
    && rm -rf /source \
    && useradd --create-home --uid 1000 user \
    && mkdir -p /models /data \
    && chown user /models /data

USER user
WORKDIR /data
VOLUME ["/models"]
ENTRYPOINT ["diffeat"]
CMD ["--help"]
