# The server without torch: what runs a model, and HTTP.
#   docker build -t bilstm .
#   docker run -p 8000:8000 -v "$PWD/model:/models/model:ro" -e BILSTM_API_KEY bilstm

FROM python:3.12-slim AS build
RUN apt-get update && apt-get install -y --no-install-recommends g++ make && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY pyproject.toml README.md LICENSE CMakeLists.txt constraints.txt ./
COPY csrc csrc
COPY src src
RUN python -m venv /opt/bilstm && \
    /opt/bilstm/bin/pip install --no-cache-dir --constraint constraints.txt '.[serve]'

FROM python:3.12-slim
RUN useradd --create-home --uid 10001 bilstm
COPY --from=build /opt/bilstm /opt/bilstm
ENV PATH=/opt/bilstm/bin:$PATH PYTHONUNBUFFERED=1
USER bilstm
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s CMD ["python", "-c", \
    "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=2)"]
STOPSIGNAL SIGTERM
# Needs BILSTM_API_KEY (or --api-key-file, or --without-key yes), as it listens beyond the container.
ENTRYPOINT ["bilstm", "serve", "--host", "0.0.0.0"]
CMD ["/models/model"]
