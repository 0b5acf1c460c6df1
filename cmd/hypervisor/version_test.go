package main

import (
	"context"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"github.com/agenthypervisor/hypervisor/sqlitelog"
)

func TestVersionTellsTheStoresFormat(t *testing.T) {
	dir := t.TempDir()
	s, err := sqlitelog.Open(context.Background(), dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, logFile))
	if err != nil {
		t.Fatal(err)
	}
	const userVersion = 60 // https://www.sqlite.org/fileformat.html#user_version_number
	if got := binary.BigEndian.Uint32(b[userVersion:]); got != storeFormat {
		t.Errorf("the store writes format %d, version tells %d", got, storeFormat)
	}
}
