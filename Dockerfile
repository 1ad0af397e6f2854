# The image of the Beam workers (Dataflow, Flink, Spark) and of the launcher.
#   docker build -t REGISTRY/sluice:0.1.0 . && docker push REGISTRY/sluice:0.1.0
FROM python:3.11-slim AS sluice
WORKDIR /opt/sluice
ENV PIP_NO_CACHE_DIR=1 PYTHONSAFEPATH=1
# fastText may have to be compiled where no wheel fits. Tesseract reads scanned pages.
RUN apt-get update && apt-get install --yes --no-install-recommends g++ tesseract-ocr tesseract-ocr-all \
    && rm -rf /var/lib/apt/lists/*
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY schemas schemas
COPY annotators annotators
COPY tokenizer tokenizer
COPY pipelines pipelines
COPY trainer trainer
COPY sluice sluice
RUN pip install --constraint constraints.txt '.[gcp]'
# The launcher and entry point of Beam's own SDK image start the workers.
COPY --from=apache/beam_python3.11_sdk:2.77.0 /opt/apache/beam /opt/apache/beam
ENTRYPOINT ["/opt/apache/beam/boot"]
