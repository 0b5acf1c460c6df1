package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

type globals struct{ data string }

const drainTime = 30 * time.Second

type coded struct {
	error
	code int
}

func usage(err error) error       { return coded{err, 2} }
func unreachable(err error) error { return coded{err, 3} }
func version() string             { return "dev" }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	g := &globals{}
	root := &cobra.Command{Use: "hypervisor", SilenceErrors: true, SilenceUsage: true}
	root.PersistentFlags().StringVar(&g.data, "data", "", "data directory")
	root.AddCommand(newWrapCommand(g))
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		var c coded
		if errors.As(err, &c) {
			os.Exit(c.code)
		}
		os.Exit(1)
	}
}
