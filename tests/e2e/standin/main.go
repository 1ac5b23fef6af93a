// Stand-ins for two of the CSI sidecars, node-driver-registrar and livenessprobe, with the flags that the chart gives them:
// no version of either is served as a Go module everywhere that these tests run. They do the same and no more. Which one it
// is, is said by the name that the program was started by.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

var (
	driver  = flag.String("csi-address", "", "the driver's socket")
	kubelet = flag.String("kubelet-registration-path", "", "the same socket, as the kubelet sees it")
	port    = flag.Int("health-port", 9808, "where /healthz is served")
	patient = flag.Duration("probe-timeout", time.Second, "how long the driver may take to answer")
)

// Where the kubelet looks for plugins: mounted there by the chart.
const sockets = "/registration"

func main() {
	flag.Parse()
	// The authority is never the socket's path.
	connection, err := grpc.NewClient("unix:"+*driver, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority("localhost"))
	if err != nil {
		log.Fatal(err)
	}
	asked := csi.NewIdentityClient(connection)
	switch name := filepath.Base(os.Args[0]); name {
	case "csi-node-driver-registrar":
		err = register(asked)
	case "livenessprobe":
		err = answer(asked)
	default:
		err = fmt.Errorf("there is no stand-in for %s", name)
	}
	log.Fatal(err)
}

func register(asked csi.IdentityClient) error {
	info, err := asked.GetPluginInfo(context.Background(), &csi.GetPluginInfoRequest{}, grpc.WaitForReady(true))
	if err != nil {
		return err
	}
	path := filepath.Join(sockets, info.Name+"-reg.sock")
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return err
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	go func() {
		<-stop
		os.Remove(path)
		os.Exit(0)
	}()
	server := grpc.NewServer()
	registration.RegisterRegistrationServer(server, plugin{name: info.Name})
	return server.Serve(listener)
}

type plugin struct {
	registration.UnsafeRegistrationServer
	name string
}

func (p plugin) GetInfo(context.Context, *registration.InfoRequest) (*registration.PluginInfo, error) {
	versions := []string{"1.0.0"}
	return &registration.PluginInfo{Type: registration.CSIPlugin, Name: p.name, Endpoint: *kubelet, SupportedVersions: versions}, nil
}

func (p plugin) NotifyRegistrationStatus(_ context.Context, status *registration.RegistrationStatus) (*registration.RegistrationStatusResponse, error) {
	if !status.PluginRegistered {
		log.Fatalf("the kubelet refused the driver: %s", status.Error)
	}
	return &registration.RegistrationStatusResponse{}, nil
}

func answer(asked csi.IdentityClient) error {
	http.HandleFunc("/healthz", func(to http.ResponseWriter, of *http.Request) {
		ctx, cancel := context.WithTimeout(of.Context(), *patient)
		defer cancel()
		said, err := asked.Probe(ctx, &csi.ProbeRequest{})
		if err != nil || said.Ready != nil && !said.Ready.Value {
			http.Error(to, fmt.Sprintf("not ready: %v", err), http.StatusInternalServerError)
			return
		}
		fmt.Fprint(to, "ok")
	})
	return http.ListenAndServe(fmt.Sprintf(":%d", *port), nil)
}
