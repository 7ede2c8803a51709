"""Other servers of OpenVINO models: how each is installed, started and asked."""
