# LGN-Net in a container, for a CPU or for NVIDIA GPUs:
#   docker build -t lgn_net .
#   docker build -t lgn_net --build-arg DEVICE=cuda .
#   docker run --rm -v /my/data:/data -v /my/runs:/runs lgn_net \
#       train.py --config configs/ped2_small.yaml --dataset_path /data --exp_dir /runs/ped2
# With GPUs add `--gpus all`; with several also `--shm-size 2g`, as their processes exchange gradients through shared memory,
# of which Docker gives 64 MB.
FROM python:3.11-slim
ARG DEVICE=cpu
ENV PYTHONUNBUFFERED=1
WORKDIR /lgn_net
COPY . .
# The CPU's PyTorch comes from an index of its own, 1 GB in place of 5.7; GPUs take the default one.
RUN if [ "$DEVICE" = cpu ]; then \
        pip install --no-cache-dir -c constraints.txt torch torchvision --index-url https://download.pytorch.org/whl/cpu; \
    fi \
    && pip install --no-cache-dir -r requirements.txt -c constraints.txt
ENTRYPOINT ["python"]
CMD ["train.py", "--help"]
