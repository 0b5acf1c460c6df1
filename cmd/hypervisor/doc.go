// Command hypervisor runs agents' sessions and looks after them: it lists and ends sessions, decides approvals, shows what was
// done, and verifies logs. Run it with --help.
//
// The package is flags and wiring: it reads what the user wants, calls a hypervisor through package client or opens what is
// asked for, and prints. It may import every room and decides nothing itself. Each command stands in a file of its own and is
// made by a function of the globals, which main.go lists.
package main
