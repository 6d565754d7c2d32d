module podthaw.test/goserver

go 1.24
