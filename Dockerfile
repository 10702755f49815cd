# An image with everything that a node of a cluster needs: Ray's own, with this repository in it.
#
#   docker build -t tune-sam:2.60.0 .                             CUDA
#   docker build -t tune-sam:2.60.0-cpu --build-arg DEVICE=cpu .  for nodes without an NVIDIA GPU

# The release of constraints.txt, since a cluster's nodes must have one release of Ray.
ARG RAY=2.60.0
ARG PYTHON=py311
# gpu or cpu
ARG DEVICE=gpu

FROM rayproject/ray:${RAY}-${PYTHON}-${DEVICE}

ARG DEVICE
COPY --chown=ray:users . /home/ray/tune_sam
WORKDIR /home/ray/tune_sam

# uv knows where torch's CPU wheels are; pip then finds torch already there.
RUN if [ "$DEVICE" = cpu ]; then \
      pip install --no-cache-dir uv && \
      uv pip install --no-cache --system --torch-backend cpu -c constraints.txt torch torchvision; \
    fi && \
    pip install --no-cache-dir -c constraints.txt -e '.[all]'

WORKDIR /home/ray
