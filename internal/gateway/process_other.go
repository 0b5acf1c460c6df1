//go:build !unix

package gateway

import (
	"os"
	"os/exec"
)

// ownGroup does nothing: without process groups only the child itself is ended, not what it started.
func ownGroup(*exec.Cmd) {}

func killGroup(pid int) {
	if p, err := os.FindProcess(pid); err == nil {
		_ = p.Kill() // it may be gone already
	}
}

func terminateGroup(pid int) { killGroup(pid) }
