#!/bin/sh
# The commands of the trainings in this folder that take hours, from the root of the repository: a study a line, each of
# which may be interrupted and run again. The first lines begin first where two run at a time.
set -e
tune-sam refit attention --config results/attention/published.yaml --name beats-50 --seeds 2 --no-controls && tune-sam analyze beats-50 --sample 512 --grid 5 && tune-sam report beats-50 || exit 1
tune-sam run gcn --config results/gcn/study.yaml --name molecules --refit-epochs 200 --seeds 5 && tune-sam analyze molecules --sample 2048 --all && tune-sam analyze molecules --sample 512 --grid 15 && tune-sam report molecules || exit 1
tune-sam refit attention --config results/attention/report-rows.yaml --name beats --seeds 3
tune-sam search gcn --config results/digits/all.yaml --name digits && tune-sam refit digits --seeds 5 && tune-sam report digits || exit 1
tune-sam search gcn --config results/digits/noise-0.2.yaml --name digits-noise-20 && tune-sam refit digits-noise-20 --seeds 5 && tune-sam report digits-noise-20 || exit 1
tune-sam search gcn --config results/digits/noise-0.4.yaml --name digits-noise-40 && tune-sam refit digits-noise-40 --seeds 5 && tune-sam report digits-noise-40 || exit 1
tune-sam search gcn --config results/digits/train-323.yaml --name digits-few-323 && tune-sam refit digits-few-323 --seeds 5 && tune-sam report digits-few-323 || exit 1
tune-sam search gcn --config results/digits/train-108.yaml --name digits-few-108 && tune-sam refit digits-few-108 --seeds 5 && tune-sam report digits-few-108 || exit 1
tune-sam refit gcn --config results/gcn-splits/best.yaml --name split-1 --split-seed 1 --seeds 1 --no-controls
tune-sam refit gcn --config results/gcn-splits/best.yaml --name split-2 --split-seed 2 --seeds 1 --no-controls
tune-sam refit gcn --config results/gcn-splits/best.yaml --name split-3 --split-seed 3 --seeds 1 --no-controls
tune-sam refit gcn --config results/gcn-splits/best.yaml --name split-4 --split-seed 4 --seeds 1 --no-controls
tune-sam refit gcn --config results/gcn-splits/best.yaml --name split-5 --split-seed 5 --seeds 1 --no-controls
tune-sam refit gcn --config results/gcn-rho/sam.yaml --name rho-sam --seeds 5 --no-controls && tune-sam analyze rho-sam --sample 512 --grid 3 && tune-sam report rho-sam || exit 1
tune-sam refit gcn --config results/gcn-rho/asam.yaml --name rho-asam --seeds 5 --no-controls && tune-sam analyze rho-asam --sample 512 --grid 3 && tune-sam report rho-asam || exit 1
tune-sam refit gcn --config results/gcn-rho/bf16.yaml --name rho-bf16 --seeds 5 --no-controls
tune-sam refit gcn --config results/gcn-rho/look-sam.yaml --name rho-look-sam --seeds 5 --no-controls && tune-sam analyze rho-look-sam --sample 512 --grid 3 && tune-sam report rho-look-sam || exit 1
tune-sam run gcn --config results/gcn-wide/study.yaml --optimizer sam --name wide-sam --refit-epochs 200 --seeds 5 --sample 512
tune-sam run gcn --config results/gcn-wide/study.yaml --optimizer asam --name wide-asam --refit-epochs 200 --seeds 5 --sample 512
tune-sam run gcn --config results/gcn-wide/study.yaml --optimizer asam-all --name wide-asam-all --refit-epochs 200 --seeds 5 --sample 512
tune-sam search gcn --config results/gcn-few/train-260.yaml --name few-260 && tune-sam refit few-260 --seeds 5 && tune-sam report few-260 || exit 1
tune-sam search gcn --config results/gcn-few/train-781.yaml --name few-781 && tune-sam refit few-781 --seeds 5 && tune-sam report few-781 || exit 1
tune-sam search gcn --config results/gcn-noise/noise-0.2.yaml --name noise-0.2 && tune-sam refit noise-0.2 --seeds 5 && tune-sam report noise-0.2 || exit 1
tune-sam search gcn --config results/gcn-noise/noise-0.4.yaml --name noise-0.4 && tune-sam refit noise-0.4 --seeds 5 && tune-sam report noise-0.4 || exit 1
tune-sam search wideresnet --config results/images/study.yaml --name images-search && tune-sam best images-search --yaml > results/images/best.new && mv results/images/best.new results/images/best.yaml && tune-sam refit wideresnet --config results/images/best.yaml --name images --epochs 20 --seeds 3 && tune-sam analyze images --sample 512 --grid 3 && tune-sam report images || exit 1
tune-sam search gcn --config results/gcn-batch-size/study.yaml --name batch-size && tune-sam refit batch-size --each-batch-size --seeds 3 && tune-sam analyze batch-size --top 3 --sample 512 --grid 3 && tune-sam report batch-size || exit 1
tune-sam refit gcn --config results/gcn-batch-size/matched.yaml --name batch-size-matched --seeds 5 --no-controls && tune-sam analyze batch-size-matched --sample 512 --grid 3 && tune-sam report batch-size-matched || exit 1
tune-sam refit gcn --config results/gcn-batch-size/best-0.0015.yaml --name batch-size-0.0015 --seeds 10003,10004 --no-controls && tune-sam analyze batch-size-0.0015 --sample 512 --grid 3 && tune-sam report batch-size-0.0015 || exit 1
tune-sam refit gcn --config results/gcn-batch-size/best-0.0135.yaml --name batch-size-0.0135 --seeds 10003,10004 --no-controls && tune-sam analyze batch-size-0.0135 --sample 512 --grid 3 && tune-sam report batch-size-0.0135 || exit 1
tune-sam refit attention --config results/attention/check-bf16.yaml --name beats-check-bf16 --seeds 3 --no-controls
tune-sam refit attention --config results/attention/interpatient.yaml --name beats-interpatient --seeds 1 --no-controls
