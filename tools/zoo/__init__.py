"""Building and training of the embedded models, and of ControlNets and LoRAs on a folder of pictures."""
