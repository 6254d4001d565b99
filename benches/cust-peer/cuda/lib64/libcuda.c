/* An empty stand-in for the driver's library: build.rs links against it, the machine's own is loaded at the start. */
