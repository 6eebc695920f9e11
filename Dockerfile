# Serves an index, read only, as an unprivileged user: see docs/search.md, "For other machines".
FROM python:3.11-slim

WORKDIR /app
COPY requirements.txt ./
# For a smaller image, --build-arg PIP_FLAGS="--extra-index-url ADDRESS" names the builds of torch without CUDA.
ARG PIP_FLAGS=""
RUN pip install --no-cache-dir $PIP_FLAGS -r requirements.txt
COPY options.py ./
COPY config config
COPY data data
COPY misc misc
COPY model model
COPY text_utils text_utils
RUN python -m compileall -q . && useradd --uid 10001 --create-home search

USER search
# Thumbnails; the file system may be read only, with a tmpfs at /tmp.
ENV XDG_CACHE_HOME=/tmp/cache PYTHONDONTWRITEBYTECODE=1
EXPOSE 7860
ENTRYPOINT ["python", "-m", "misc.search", "serve"]
CMD ["/index", "--host", "0.0.0.0"]
