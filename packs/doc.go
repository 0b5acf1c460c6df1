// Package packs holds what the hypervisor knows of well-known MCP servers: for each of their tools what it does to the world,
// how far that can be taken back, and by which call. An operator takes one over with `pack: NAME` in hypervisor.yaml.
//
// A pack is a YAML file, in the shape of configuration's servers.NAME.actions, beside the version of the server it was written
// from. It says no more than is so: what is not certain takes the strict value, and each undo has cases, NAME.test.yaml, that
// show it against the real server (hypervisor pack test). The package holds texts and reads none of them, which packages
// config and packtest do. It imports nothing of ours.
package packs
