package auth

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/system"
)

// operator.go: the token of whoever may read the data directory.

const (
	// OperatorFile is the name, in the data directory, of the file that holds the operator's token.
	OperatorFile = "operator.token"

	operatorLife = system.MaxTokenLife
	// renewBefore is how long before its end the operator's token is replaced. The old one counts until then.
	renewBefore = 30 * 24 * time.Hour
	renewEvery  = 24 * time.Hour
)

// localOperator is whom the token in the data directory is for.
var localOperator = policy.Operator("did:mesh:operator").Through("config")

// OperatorToken sees to it that dir has a file, readable by its user alone, with an operator's token that counts and is not near
// its end, and returns its path and whether it was written now.
func (d *Door) OperatorToken(ctx context.Context, dir string) (path string, written bool, err error) {
	path = filepath.Join(dir, OperatorFile)
	counts, err := d.counts(path)
	if err != nil {
		return path, false, fmt.Errorf("operator's token: %w", err)
	}
	if counts {
		return path, false, nil
	}
	// If we crash between the two the log has a token whose secret nobody knows, and the next start makes another.
	secret, _, err := d.Issue(ctx, localOperator, system.Token{Subject: localOperator.DID, Role: policy.OperatorRole}, operatorLife)
	if err != nil {
		return path, false, fmt.Errorf("operator's token: %w", err)
	}
	if err := replace(path, secret.Reveal()+"\n"); err != nil {
		return path, false, fmt.Errorf("writing the operator's token: %w", err)
	}
	return path, true, nil
}

// KeepOperatorToken replaces the operator's token whenever it nears its end, until ctx ends; then it returns nil.
func (d *Door) KeepOperatorToken(ctx context.Context, dir string) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(renewEvery):
		}
		if _, _, err := d.OperatorToken(ctx, dir); err != nil && !errors.Is(err, hypervisor.ErrClosed) {
			d.hv.Logger().Warn("the operator's token is not renewed", "error", err)
		}
	}
}

// counts reports whether a file holds an operator's token that is not near its end. A file that others may read is made the
// user's alone.
func (d *Door) counts(path string) (bool, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return false, err
	}
	if !info.Mode().IsRegular() {
		return false, fmt.Errorf("%s is no file; remove it", path)
	}
	if isOpenToOthers(info) {
		d.hv.Logger().Warn("others could read the operator's token; if somebody may have, revoke it with 'token revoke' and start again", "file", path)
		if err := f.Chmod(0o600); err != nil {
			return false, err
		}
	}
	b, err := io.ReadAll(io.LimitReader(f, 1<<10))
	if err != nil {
		return false, err
	}
	secret, err := ParseSecret(strings.TrimSpace(string(b)))
	if err != nil {
		return false, nil // whatever it is, it lets nobody in
	}
	t, ok := d.hv.Token(secret.Hash())
	return ok && t.Role == policy.OperatorRole && t.Expires.Sub(d.hv.Now()) > renewBefore, nil
}

// replace writes a file that only its user may read, whole or not at all.
func replace(path, text string) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".token-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone already where all went well
	_, err = f.WriteString(text)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
