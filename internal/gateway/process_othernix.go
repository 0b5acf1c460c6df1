//go:build unix && !linux

package gateway

import (
	"os/exec"
	"syscall"
)

// ownGroup puts the child in a process group of its own. There is no parent-death signal here: a child outlives a SIGKILL of
// ours until it reads the end of its input.
func ownGroup(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }
