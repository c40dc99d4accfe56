#!/bin/sh
# Builds the executable that stratos.toml names. Any language will do that makes a Linux binary.
set -eu
cd "$(dirname "$0")"
rustc --edition 2024 -C opt-level=3 -C strip=symbols -o server server.rs
