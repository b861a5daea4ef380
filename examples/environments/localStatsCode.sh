#!/bin/sh
# Stands for your own program: says what it was given.
set -eu
echo "method: $STATS_METHOD"
echo "device: $FASTHEP_DEVICE"
echo "memory: $FASTHEP_MEMORY_BYTES bytes"
